"""The one door to tenant scope.

A transaction is bound to one organisation, and row-level security shows and accepts only its rows. The binding is local
to the transaction and ends with it, so a pooled connection carries nothing over; without one, nothing is visible.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.errors import translated

_BIND = text("SELECT set_config('app.org_id', :org_id, true)")


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
