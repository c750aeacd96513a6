"""A dedicated connection that mends itself: prepared statements, pinned plans, reconnect on the next use."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import asyncpg

from app import clock
from app.db.errors import domain_error
from app.domain.errors import ConnectionLost, Unavailable

DriverConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Connect = Callable[[], Awaitable[DriverConnection]]
Fetch = Callable[..., Awaitable[Sequence[asyncpg.Record]]]

PIN_PLANS = (
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_mergejoin = off; SET jit = off"
)
"""Plans made while tables are small scan them for ever after. These settings make the plan of big tables at once."""


class Link:
    """One connection, used by one statement at a time. `setup` runs after each connect."""

    def __init__(self, connect: Connect, setup: str = "") -> None:
        self._connect = connect
        self._setup = setup
        self._connection: DriverConnection | None = None
        self._prepared: dict[str, Any] = {}
        self._lock = asyncio.Lock()
        self._lost_at = float("-inf")
        self._closed = False

    async def fetch(self, sql: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """Run one statement in its own transaction.

        Raises Unavailable if the database was away or busy: whether the statement took effect is then unknown. Every
        other error is the driver's own. After any error the connection is made anew: whatever was wrong with it, such
        as a prepared plan that a migration has overtaken, does not last. Who queued behind a statement that found the
        database away shares its fate, so that a queue of callers waits for one timeout and not for all of theirs.
        """
        async with self._session() as connection:
            return await self._run(connection, sql, *arguments)

    @asynccontextmanager
    async def transaction(self, begin: str) -> AsyncIterator[Fetch]:
        """Several statements in the transaction that `begin` opens, by the function it yields; committed at the end.

        Raises what `fetch` raises. Nothing took effect then, unless it was the answer to the COMMIT that got lost.
        """
        async with self._session() as connection:
            await connection.execute(begin)
            yield partial(self._run, connection)
            await connection.execute("COMMIT")

    async def read(self, sql: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """A statement that changes nothing, so that one lost connection is hidden by asking again."""
        try:
            return await self.fetch(sql, *arguments)
        except ConnectionLost:
            return await self.fetch(sql, *arguments)

    async def close(self) -> None:
        """Close for good; a statement under way is cut."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await hang_up(connection)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[DriverConnection]:
        """The connection, for one caller at a time; errors end it."""
        queued_at = clock.monotonic()
        async with self._lock:
            if self._lost_at > queued_at:
                raise Unavailable("The database does not answer. Try again.")
            try:
                yield await self._open()
            except BaseException as error:
                self._drop()
                if self._closed and isinstance(error, Exception):
                    raise Unavailable("This process is stopping") from error  # the driver has many words for it
                meant = domain_error(error) if isinstance(error, Exception) else None
                if isinstance(meant, Unavailable):
                    self._lost_at = clock.monotonic()
                    raise meant from error
                raise

    async def _run(self, connection: DriverConnection, sql: str, *arguments: object) -> Sequence[asyncpg.Record]:
        statement = self._prepared.get(sql)
        if statement is None:
            statement = self._prepared[sql] = await connection.prepare(sql)
        rows: Sequence[asyncpg.Record] = await statement.fetch(*arguments)
        return rows

    async def _open(self) -> DriverConnection:
        if self._connection is None or self._connection.is_closed():
            self._prepared.clear()
            self._connection = await self._connect()
            if self._closed:
                raise Unavailable("This process is stopping")
            if self._setup:
                await self._connection.execute(self._setup)
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._prepared.clear()
        if connection is not None:
            connection.terminate()


async def hang_up(connection: DriverConnection) -> None:
    """Close a connection that may be dead already, within two seconds and without a word."""
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        await connection.close(timeout=2)
