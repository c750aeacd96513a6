"""Limits hold while the processes that keep them are killed: what really runs is counted outside, by open connections.

The kernel closes those of a killed process in the moment it dies, so that the count is of living attempts alone.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

from app.db.recorder import GroupRecorder
from app.db.tables.executions import HOLDS_A_SLOT
from app.db.urls import ENGINE
from app.domain.compiled import Slots
from app.streaming.hub import Hub
from tests.database import Database
from tests.engine.harness import ORG, new_execution, save_workflow
from tests.engine.kit import Sink, Wire
from tests.engine.worker import worker

EXECUTIONS = 200
WORKERS = 3
KILLS = 5
OF_A_USER = 4
OF_A_KEY = 3
OF_A_RATE, SECONDS = 6, 1.0
USERS = ("user_x", "user_y", "user_z")


class Visit(asyncio.Protocol):
    """One attempt, from its word to the end of its connection."""

    def __init__(self, hall: "Hall") -> None:
        self._hall = hall
        self._names: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        execution, self._hall.latest, config = json.loads(data)
        self._names = [f"key {config['key']}", f"user {config['user']}"]
        self._hall.enter(execution, self._names)
        seconds = self._hall.chance.uniform(0.002, 0.03)  # how long the work takes
        asyncio.get_running_loop().call_later(seconds, self._transport.write, b"done\n")

    def connection_lost(self, _error: Exception | None) -> None:
        self._hall.inside.subtract(self._names)


class Hall:
    """Where all attempts are seen. `most` is how many of one name were ever inside at once.

    `latest` is the pid of the worker that came last.
    """

    def __init__(self) -> None:
        self.chance = random.Random(7)
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.visits: Counter[str] = Counter()
        self.port = self.latest = 0
        self._entered = asyncio.Event()

    def enter(self, execution: str, names: list[str]) -> None:
        self.inside.update(names)
        self.visits[execution] += 1
        for name in names:
            self.most[name] = max(self.most[name], self.inside[name])
        self._entered.set()

    async def until(self, visits: int) -> int:
        """Wait for so many visits and for the next one; the pid it is of."""
        self._entered.clear()
        async with asyncio.timeout(60):
            while self.visits.total() < visits or not self._entered.is_set():
                self._entered.clear()
                await self._entered.wait()
        return self.latest


@asynccontextmanager
async def hall() -> AsyncIterator[Hall]:
    opened = Hall()
    server = await asyncio.get_running_loop().create_server(lambda: Visit(opened), "127.0.0.1", 0)
    opened.port = server.sockets[0].getsockname()[1]
    try:
        yield opened
    finally:
        server.close()


async def accept_all(database: Database) -> None:
    """200 executions of three users: of a key with a limit, of a rate, and of neither; without an engine."""
    for user in USERS:
        await database.execute("INSERT INTO users (id, email, name) VALUES ($1, $1 || '@example.com', 'Bob')", user)
    visit = {"type": "visit", "with": {"key": "${{ input.key }}", "user": "${{ input.user }}"}}
    workflow = await save_workflow(database, visit | {"id": "a"}, visit | {"id": "b", "needs": ["a"]})
    recorder = GroupRecorder(Wire(database.role_url(ENGINE)).connect, Hub(), sender="accept", writers=1)
    recorder.start()
    limits: list[dict[str, Any]] = [
        {"slots": Slots("k", OF_A_KEY, "queue")},
        {"slots": Slots(rate_key="r", rate_limit=OF_A_RATE, rate_seconds=SECONDS)},
        {},
    ]
    news = []
    for number in range(EXECUTIONS):
        user = USERS[number // 5 % 3]
        kind = (0, 0, 1, 2, 2)[number % 5]
        value = {"key": f"{'kr-'[kind]}", "user": user}
        news.append(new_execution(workflow, value, user_id=user, **limits[kind]))
    await asyncio.gather(*map(recorder.create, news))
    await recorder.stop()


async def watch_slots(database: Database) -> int:
    """Look at the holders of slots until everything has ended; how often."""
    looks = 0
    left = "SELECT EXISTS (SELECT FROM executions WHERE status <> 'COMPLETED')"
    sql = "SELECT {} AS whose, count(*) AS n FROM executions WHERE {} IS NOT NULL AND ({}) GROUP BY 1"
    async with database.connected() as connection:
        while await connection.fetchval(left):
            for column, most in (("user_id", OF_A_USER), ("concurrency_key", OF_A_KEY)):
                rows = await connection.fetch(sql.format(column, column, HOLDS_A_SLOT))
                assert all(row["n"] <= most for row in rows), [dict(row) for row in rows]
            looks += 1
    return looks


async def begun_within(database: Database, seconds: float) -> int:
    """The most executions of the rate that began in any span of so many seconds."""
    rows = await database.fetch("SELECT started_at FROM executions WHERE rate_key = 'r' ORDER BY started_at")
    moments = [row["started_at"] for row in rows]
    span = timedelta(seconds=seconds)
    return max(sum(first <= other < first + span for other in moments) for first in moments)


class Workers:
    """Worker processes, some of which are killed in the middle of their work and replaced."""

    def __init__(self, start: Callable[[], Awaitable[asyncio.subprocess.Process]]) -> None:
        self._start = start
        self._alive: dict[int, asyncio.subprocess.Process] = {}
        self.coming: list[asyncio.Task[None]] = []

    async def add(self, count: int) -> None:
        started = await asyncio.gather(*(self._start() for _ in range(count)))
        self._alive |= {process.pid: process for process in started}

    def replace(self, pid: int) -> bool:
        """Kill one, and another one takes its place as soon as it is ready; False if it is dead already."""
        if (victim := self._alive.pop(pid, None)) is None:
            return False
        victim.kill()
        self.coming.append(asyncio.create_task(self.add(1)))
        return True


async def test_no_limit_is_exceeded_while_workers_are_killed(database: Database, sink: Sink) -> None:
    await accept_all(database)
    async with hall() as seen, AsyncExitStack() as stack:

        async def start() -> asyncio.subprocess.Process:
            return await stack.enter_async_context(worker(database, sink, 30.0, OF_A_USER, seen.port))

        watching = asyncio.create_task(watch_slots(database))
        stack.callback(watching.cancel)
        workers = Workers(start)
        await workers.add(WORKERS)
        for kill in range(KILLS):
            while not workers.replace(await seen.until((kill + 1) * 2 * EXECUTIONS // (KILLS + 2))):
                continue  # a visit of who was killed just before
        await asyncio.gather(*workers.coming)
        async with asyncio.timeout(60):
            assert await watching > 100
        killed = await database.fetchval("SELECT count(*) FROM step_attempts WHERE status = 'LOST'")
        assert killed >= KILLS / 2, "the kills hit nothing"
        assert OF_A_RATE / 2 <= await begun_within(database, SECONDS) <= OF_A_RATE
        assert seen.most["key k"] == OF_A_KEY
        assert {seen.most[f"user {user}"] for user in USERS} == {OF_A_USER}
        assert seen.visits.total() <= 2 * EXECUTIONS + killed
        assert len(seen.visits) == EXECUTIONS
        assert await database.fetchval("SELECT count(*) FROM executions WHERE org_id = $1", ORG) == EXECUTIONS
