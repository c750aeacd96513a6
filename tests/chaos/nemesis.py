"""Who breaks things: one fault after the other, chosen by a seed, each of which must be seen to have hit."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

from tests.chaos.cluster import LEASE_TTL, App, Cluster
from tests.chaos.deaf import deaf_reader
from tests.chaos.journal import pause
from tests.chaos.proxy import Loses, Loss, Proxy

ENGINE, API, LEASE, DOORBELL = "stepstream-engine", "stepstream-api", "stepstream-lease", "stepstream-doorbell"
AUTH, SEALER = "stepstream-auth", "stepstream-sealer"

STATEMENTS: dict[str, tuple[str, str]] = {
    "record": ("e.write_no = t.write_no - 1", ENGINE),
    "accept": ("user_id, input_data, labels, priority", ENGINE),
    "look": ("WITH due AS", ENGINE),
    "claim": ("WITH RECURSIVE suspect", ENGINE),
    "called": ("WITH unread AS", ENGINE),
    "strays": ("AS kept(id)", ENGINE),
    "rescue": ("WITH RECURSIVE dead", LEASE),
    "renew": ("UPDATE workers SET lease_until", LEASE),
    "inbox": ("INSERT INTO execution_inbox", API),
    "request": ("COMMIT", API),
    "sign-in": ("COMMIT", AUTH),
    "claims": ("COMMIT", ENGINE),
    "mail": ("FROM execution_inbox", ENGINE),
    "steps": ("FROM execution_steps WHERE execution_id = ANY", ENGINE),
    "seal": ("INSERT INTO audit_seals", SEALER),
    "sealed": ("COMMIT", SEALER),
    "definition": ("workflow_versions", ENGINE),
}
"""Statements worth losing: a part of each, and the kind of connection it is sent on."""

HIT_SECONDS = 60.0

Fault: TypeAlias = Callable[[App], Awaitable[object]]


class Nemesis:
    """`timeline` tells what was done: seconds since the beginning, the fault, the app, and what it hit."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self._began = time.monotonic()
        self._free = list(cluster.apps)
        self._postgres = asyncio.Lock()
        self.timeline: list[dict[str, Any]] = []
        self.faults: dict[str, Fault] = {
            "kill": self.kill,
            "stop": self.stop,
            "stop with deaf readers": self.stop_with_deaf_readers,
            "freeze": self.freeze,
            "lost answers": self.lose_answers,
            "lost questions": self.lose_questions,
            "lost records": self.lose_records,
            "cut": self.cut,
            "dark": self.dark,
            "stall": self.stall,
            "slow": self.slow,
            "crash of postgres": self.crash_postgres,
            "backends ended": self.end_backends,
        }

    async def rage(self, names: Sequence[str], mean_interval: float, over: Callable[[], bool]) -> None:
        """Faults of these names at random, until it is over; in the end everything is whole again."""
        while not over():
            await self.strike(self._chance.choice(names))
            await pause(self._chance.expovariate(1 / mean_interval))

    async def strike(self, name: str) -> None:
        """One fault, and its end; another one of the same time hits another app."""
        app = self._free.pop(self._chance.randrange(len(self._free)))
        line: dict[str, Any] = {"at": round(time.monotonic() - self._began, 1), "fault": name, "app": app.number}
        self.timeline.append(line)
        line["hit"] = await self.faults[name](app)
        self._free.append(app)
        assert line["hit"], f"the fault hit nothing: {line}"
        for other in self._cluster.apps:
            assert not other.fell, f"app {other.number} has ended by itself:\n{other.fell}"

    async def kill(self, app: App) -> object:
        await app.kill()
        await pause(self._chance.uniform(0, 1))
        await self._start(app)
        return True

    async def stop(self, app: App) -> object:
        code = await app.stop()
        await self._start(app)
        return f"exit code {code}"

    async def stop_with_deaf_readers(self, app: App) -> object:
        """Streams of events that nobody reads do not keep it from ending."""
        async with self._postgres, self._cluster.postgres.connected() as connection:
            newest = await connection.fetch("SELECT id FROM executions ORDER BY id DESC LIMIT 20")
        async with AsyncExitStack() as stack:
            for row in newest:
                await stack.enter_async_context(deaf_reader(app, row["id"], self._cluster.token))
            code = await app.stop()
        await self._start(app)
        return f"exit code {code}, {len(newest)} readers"

    async def freeze(self, app: App) -> object:
        """Its lease runs out, others go on with its work, and then it wakes up."""
        app.freeze()
        await pause(LEASE_TTL + self._chance.uniform(0, 3))
        hit = app.frozen
        app.thaw()
        return hit

    async def lose_answers(self, app: App) -> object:
        return await self._lose(app, "answer")

    async def lose_questions(self, app: App) -> object:
        return await self._lose(app, "question")

    async def lose_records(self, app: App) -> object:
        """Twenty records in a row are made, and nobody hears of it."""
        text, of = STATEMENTS["record"]
        loss = app.proxy.lose(text, of=of, times=20)
        await self._until_some(lambda: loss.hits == loss.times)
        return loss.hits

    async def cut(self, app: App) -> object:
        of = self._chance.choice([None, ENGINE, API])
        return await self._until_some(lambda: app.proxy.cut(of))

    async def dark(self, app: App) -> object:
        before = app.proxy.held
        app.proxy.darken(self._chance.choice([None, None, ENGINE, API, LEASE, DOORBELL]))
        hit = await self._until_some(lambda: app.proxy.held - before)
        await self._for_a_while(app.proxy, 6)
        return hit

    async def stall(self, app: App) -> object:
        before, of = app.proxy.held, self._chance.choice([ENGINE, LEASE, DOORBELL, None])

        def held() -> int:
            if not app.proxy.stalled:  # whoever was to be may have been cut off before
                app.proxy.stall(of)
            return app.proxy.held - before

        hit = await self._until_some(held)
        await self._for_a_while(app.proxy, 25)
        return hit

    async def slow(self, app: App) -> object:
        before = app.proxy.delayed
        app.proxy.slow_down(self._chance.choice([0.02, 0.1, 0.2]), self._chance.choice([64_000, 256_000, 1e9]))
        hit = await self._until_some(lambda: app.proxy.delayed - before)
        await self._for_a_while(app.proxy, 6)
        return hit

    async def crash_postgres(self, _app: App) -> object:
        async with self._postgres:
            before = self._cluster.postgres.pid
            await self._cluster.postgres.crash()
            await pause(self._chance.uniform(0, 2))
            await self._cluster.postgres.start()
            return self._cluster.postgres.pid != before

    async def end_backends(self, _app: App) -> object:
        ended = 0
        async with self._postgres, self._cluster.postgres.connected() as connection:
            for _ in range(5):
                ended += await connection.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity "
                    "WHERE application_name LIKE 'stepstream-%' ORDER BY random() LIMIT 2) AS chosen"
                )
                await pause(0.2)
        return ended

    async def _start(self, app: App) -> None:
        """Start it as a supervisor does: again and again while it ends for want of a database."""
        async with asyncio.timeout(HIT_SECONDS):
            while not await app.started():
                assert "The database" in app.process.text, app.process.text
                await pause(0.2)

    async def _lose(self, app: App, loses: Loses) -> object:
        """Statements of one kind for a while; if none is sent, another kind: not all of them are sent all the time."""
        async with asyncio.timeout(10 * HIT_SECONDS):
            while True:
                name = self._chance.choice(list(STATEMENTS))
                text, of = STATEMENTS[name]
                times, skip = self._chance.choice([1, 2, 5]), self._chance.randrange(3)
                loss = app.proxy.lose(text, loses, of=of, times=times, skip=skip)
                hit = await self._hit_soon(loss)
                await self._for_a_while(app.proxy, 1)
                if hit:
                    return f"{name} {loss.hits}"

    async def _hit_soon(self, loss: Loss) -> bool:
        try:
            async with asyncio.timeout(5):
                return await loss.hit.wait()
        except TimeoutError:
            return False

    async def _until_some(self, strike: Callable[[], int]) -> int:
        """Ask until there is something that was hit."""
        async with asyncio.timeout(HIT_SECONDS):
            while not (hit := strike()):
                await pause(0.05)
        return hit

    async def _for_a_while(self, proxy: Proxy, longest: float) -> None:
        await pause(self._chance.uniform(0, longest))
        proxy.heal()
