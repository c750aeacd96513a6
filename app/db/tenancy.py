"""The one door to tenant scope.

A transaction is bound to one organisation, and row-level security shows and accepts only its rows. The binding is local
to the transaction and ends with it, so a pooled connection carries nothing over; without one, nothing is visible.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.errors import translated
from app.db.link import PIN_PLANS, Connect, Link

_BIND = text("SELECT set_config('app.org_id', :org_id, true)")
_BOUND_READ = """
WITH bound AS MATERIALIZED (SELECT set_config('app.org_id', $1, true) AS org_id)
SELECT found.* FROM bound, LATERAL ({query} OFFSET 0) found"""


class Tenancy:
    """Transactions of the api role, each in the scope of one organisation."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def transaction(self, org_id: str) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees only `org_id`'s rows; commits at the end, rolls back on an error.

        `org_id` comes from a checked credential, never from a request. What the database raises leaves as an error of
        the domain, so nothing but database work belongs inside.
        """
        if not org_id:
            raise ValueError("no organisation to bind the transaction to")
        with translated():
            async with self._engine.begin() as connection:
                await connection.execute(_BIND, {"org_id": org_id})
                yield connection


class TenantReads:
    """Reads of the api role that take one round trip each, on a few connections of their own.

    A query compares `org_id` with `bound.org_id`: it depends on the row that binds the transaction, so that it cannot
    be looked at before. Were it, it would find nothing.
    """

    def __init__(self, connect: Connect, connections: int = 4) -> None:
        self._links = [Link(connect, PIN_PLANS) for _ in range(connections)]
        self._busy = [0] * connections

    async def close(self) -> None:
        for link in self._links:
            await link.close()

    async def fetch(self, org_id: str, query: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """The rows of a query whose arguments begin with $2, in its order.

        `org_id` comes from a checked credential, never from a request. Raises errors of the domain.
        """
        if not org_id:
            raise ValueError("no organisation to bind the transaction to")
        place = self._busy.index(min(self._busy))
        self._busy[place] += 1
        try:
            with translated():
                return await self._links[place].read(bound_read(query), org_id, *arguments)
        finally:
            self._busy[place] -= 1


@cache
def bound_read(query: str) -> str:
    """The statement that binds its transaction to the organisation $1 and reads."""
    if "bound.org_id" not in query:
        raise ValueError("the query does not depend on the organisation it is bound to")
    return _BOUND_READ.format(query=query)
