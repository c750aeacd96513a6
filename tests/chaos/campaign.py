"""Stories told to the end while a nemesis rages, and everything checked afterwards."""

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.chaos.checker import check_all, check_log, unfinished
from tests.chaos.client import Client
from tests.chaos.cluster import Cluster, cluster
from tests.chaos.journal import Journal
from tests.chaos.nemesis import Nemesis
from tests.chaos.sink import Sink, sink
from tests.chaos.watchers import Watchers
from tests.chaos.workload import STORIES, Wish, workflows

TELLERS = 12
WATCHED = 0.3
END_SECONDS = 120.0
"""How long stories may take once everything is whole again, on a machine that is busy with other things."""


class Campaign:
    """One run, by its seed."""

    def __init__(self, seed: int, deployment: Cluster, outside: Sink, directory: Path) -> None:
        self.seed = seed
        self.deployment = deployment
        self.outside = outside
        self.journal = Journal(directory / "journal")
        self.client = Client(deployment, self.journal, random.Random(f"{seed} client"))
        self.nemesis = Nemesis(deployment, random.Random(f"{seed} nemesis"))
        self.watchers = Watchers(deployment, self.client)
        self.told: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._chance = random.Random(f"{seed} stories")
        self._over = False

    async def run(self, rage: Callable[[Nemesis], Coroutine[Any, Any, None]]) -> None:
        """Tell stories as long as `rage` lasts, then see all of them end; assert everything."""
        await asyncio.gather(*(app.start() for app in self.deployment.apps))
        for document in workflows(self.outside.url):
            assert (await self.client.insist("POST", "/workflows", json=document)).status_code == 201
        tellers = [asyncio.create_task(self._tell(number), name=f"teller {number}") for number in range(TELLERS)]
        raging = asyncio.create_task(rage(self.nemesis))
        try:
            await asyncio.wait([raging, *tellers], return_when=asyncio.FIRST_COMPLETED)
            self._over = True
            await self._end(raging, tellers)
        finally:
            for task in (raging, *tellers):
                task.cancel()
            await asyncio.gather(raging, *tellers, return_exceptions=True)

    async def _end(self, raging: asyncio.Task[None], tellers: list[asyncio.Task[None]]) -> None:
        for task in (raging, *tellers):
            if task.done():
                task.result()
        async with self.deployment.tables() as tables:
            _, telling = await asyncio.wait(tellers, timeout=END_SECONDS)
            assert not telling, f"stuck: {[task.get_name() for task in telling]}, {await unfinished(tables)}"
            await asyncio.gather(*tellers)
            async with asyncio.timeout(END_SECONDS):
                await self.watchers.check(tables)
            await check_all(tables, self.journal, self.outside)
        codes = await asyncio.gather(*(app.stop() for app in self.deployment.apps))
        assert codes == [0] * len(codes)
        for app in self.deployment.apps:
            for process in app.incarnations:
                check_log(process.out)

    async def close(self) -> None:
        await self.watchers.close()
        await self.client.close()
        self.journal.close()

    async def _tell(self, number: int) -> None:
        while not self._over:
            name = self._chance.choice(list(STORIES))
            wish = Wish(
                self.client, self.outside, f"{number}-{self.told.total()}-{name}", self._chance, watch=self._watch
            )
            began = time.monotonic()
            await STORIES[name](wish)
            self.seconds.append(time.monotonic() - began)
            self.told[name] += 1

    def _watch(self, execution_id: str) -> None:
        if self._chance.random() < WATCHED:
            self.watchers.watch(execution_id)

    def result(self) -> dict[str, Any]:
        """What there was, in numbers."""
        return {
            "seed": self.seed,
            "asked": dict(Counter(line["outcome"] for line in self.journal.lines)),
            "stories": dict(self.told),
            "seconds": _quantiles(self.seconds),
            "effects": self.outside.effects.total(),
            "repeated_effects": sum(times - 1 for times in self.outside.effects.values()),
            "watched": len(self.watchers.seen),
            "reconnects": self.watchers.reconnects,
            "faults": dict(Counter(line["fault"] for line in self.nemesis.timeline)),
            "timeline": self.nemesis.timeline,
        }


@asynccontextmanager
async def campaign(seed: int, directory: Path, apps: int = 2, beside: Path | None = None) -> AsyncIterator[Campaign]:
    """A campaign on a deployment of its own. An error tells the seed, the timeline, and how to have it again."""
    async with sink(directory / "effects") as outside, cluster(apps, beside, **outside.environment) as deployment:
        made = Campaign(seed, deployment, outside, directory)
        try:
            yield made
        except BaseException as error:
            error.add_note("\n".join(json.dumps(line) for line in made.nemesis.timeline))
            error.add_note(
                f"again: pytest -m chaos tests/chaos --chaos-seed {seed}; logs are in {_logs(made, directory)}"
            )
            raise
        finally:
            await made.close()


def _logs(made: Campaign, directory: Path) -> Path:
    for app in made.deployment.apps:
        text = "".join(f"--- {process.pid}\n{process.text}" for process in app.incarnations)
        (directory / f"app-{app.number}.log").write_text(text)
    return directory


def _quantiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else [0.0] * 99
    return {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2)}
