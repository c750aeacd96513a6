"""An engine in a process of its own, to be stopped and killed: `python -m tests.engine.worker <database> <url> <sink>`.

It says `ready` once it claims. Its step types: `sink` leaves a line; `hang` and `hang_once` leave one and never end;
`count`, `item` and `item_once` leave one and end with their `n` or `value`;
`visit` stays with the hall at a port (the last argument) until it is shown out. Before that: how many a user may run.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.domain.steps import Done, Effect
from app.engine.step_types import StepContext
from tests.database import Database
from tests.engine.harness import engine
from tests.engine.kit import Sink, Step

ROOT = Path(__file__).parents[2]


async def hang(context: Any, config: Any) -> Done:
    await asyncio.Event().wait()
    return Done()


async def echo(context: StepContext, config: Mapping[str, Any]) -> Done:
    return Done(config["value"])


async def counted(context: StepContext, config: Mapping[str, Any]) -> Done:
    return Done(config["n"])


def visit(port: int) -> Step:
    async def run(context: StepContext, config: Mapping[str, Any]) -> Done:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(json.dumps([context.execution_id, os.getpid(), config]).encode() + b"\n")
            await reader.readline()
        finally:
            writer.close()
        return Done(config)

    return Step(run)


async def main(name: str, admin_url: str, path: str, lease_ttl: str, of_a_user: str = "0", port: str = "0") -> None:
    sink = Sink(Path(path))
    types = {
        "sink": sink.step(),
        "hang": sink.step(then=hang),
        "hang_once": sink.step(Effect.ONCE, then=hang),
        "visit": visit(int(port)),
        "count": sink.fast(counted),
        "item": sink.fast(echo),
        "item_once": sink.fast(echo, Effect.ONCE),
    }
    database = Database(name, admin_url, None)  # type: ignore[arg-type]
    async with engine(database, types=types, lease_ttl=float(lease_ttl), max_running_per_user=int(of_a_user)):
        print("ready", flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def worker(
    database: Database, sink: Sink, lease_ttl: float = 30.0, of_a_user: int = 0, port: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """An engine in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.engine.worker", database.name, database.admin_url, str(sink.path), str(lease_ttl),
        str(of_a_user), str(port),
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        while (line := await process.stdout.readline()) != b"ready\n":
            assert line, "the worker ended"
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.communicate()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
