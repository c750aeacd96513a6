"""An engine in a process of its own, to be stopped and killed: `python -m tests.engine.worker <database> <url> <sink>`.

It says `ready` once it claims. Its step types: `sink` leaves a line; `hang` and `hang_once` leave one and never end.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from app.domain.steps import Done, Effect
from tests.database import Database
from tests.engine.harness import engine
from tests.engine.kit import Sink


async def hang(context: Any, config: Any) -> Done:
    await asyncio.Event().wait()
    return Done()


async def main(name: str, admin_url: str, path: str, lease_ttl: str) -> None:
    sink = Sink(Path(path))
    types = {"sink": sink.step(), "hang": sink.step(then=hang), "hang_once": sink.step(Effect.ONCE, then=hang)}
    database = Database(name, admin_url, None)  # type: ignore[arg-type]
    async with engine(database, types=types, lease_ttl=float(lease_ttl)):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
