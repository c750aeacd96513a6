"""A dedicated connection that mends itself: prepared statements, pinned plans, reconnect on the next use."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from app.db.errors import domain_error
from app.domain.errors import Unavailable

Connect = Callable[[], Awaitable["asyncpg.Connection[asyncpg.Record]"]]

PIN_PLANS = (
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_mergejoin = off; SET jit = off"
)
"""Plans made while tables are small scan them for ever after. These settings make the plan of big tables at once."""


class Link:
    """One connection, used by one statement at a time. `setup` runs after each connect."""

    def __init__(self, connect: Connect, setup: str = "") -> None:
        self._connect = connect
        self._setup = setup
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._prepared: dict[str, Any] = {}
        self._lock = asyncio.Lock()

    async def fetch(self, sql: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """Run one statement in its own transaction.

        Raises Unavailable if the database was away or busy: whether the statement took effect is then unknown, and the
        connection is made anew next time. Every other error is the driver's own.
        """
        async with self._lock:
            try:
                statement = self._prepared.get(sql)
                if statement is None:
                    statement = self._prepared[sql] = await (await self._open()).prepare(sql)
                rows: Sequence[asyncpg.Record] = await statement.fetch(*arguments)
            except Exception as error:
                meant = domain_error(error)
                if not isinstance(meant, Unavailable):
                    raise
                self._drop()
                raise meant from error
            except BaseException:
                self._drop()
                raise
            return rows

    async def read(self, sql: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """A statement that changes nothing, so that one lost connection is hidden by asking again."""
        try:
            return await self.fetch(sql, *arguments)
        except Unavailable:
            return await self.fetch(sql, *arguments)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        self._prepared.clear()
        if connection is not None:
            await connection.close(timeout=2)

    async def _open(self) -> "asyncpg.Connection[asyncpg.Record]":
        if self._connection is None or self._connection.is_closed():
            self._prepared.clear()
            self._connection = await self._connect()
            if self._setup:
                await self._connection.execute(self._setup)
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._prepared.clear()
        if connection is not None:
            connection.terminate()
