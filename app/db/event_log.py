"""Reading the durable events: by cursor within the tenant's scope, and heads for the poller."""

from collections.abc import Mapping, Sequence

from sqlalchemy import or_, select

from app.db.group_commit import GroupCommit, Refused
from app.db.link import PIN_PLANS, Connect, Link
from app.db.tables import execution_events as table
from app.db.tenancy import Tenancy
from app.domain.changes import Event
from app.domain.jsontext import decode

ENDED = """
SELECT e.id FROM unnest($1::text[], $2::text[]) AS asked(org_id, id)
  JOIN executions e ON e.org_id = asked.org_id AND e.id = asked.id
 WHERE e.status IN ('COMPLETED', 'FAILED', 'CANCELLED')"""

HEADS = "SELECT id, next_seq - 1 AS head FROM executions WHERE id = ANY($1::text[])"


class PostgresEventLog:
    """Implements `app.engine.ports.EventLog`."""

    def __init__(self, tenancy: Tenancy, connect: Connect) -> None:
        self._tenancy = tenancy
        self._link = Link(connect, PIN_PLANS)
        self._asking = GroupCommit[tuple[str, str], bool](self._ask, _never_refused)

    async def close(self) -> None:
        await self._asking.stop()
        await self._link.close()

    async def read(
        self, org_id: str, execution_id: str, after: int, limit: int, step_id: str | None = None
    ) -> Sequence[Event]:
        query = (
            select(table.c.seq, table.c.type, table.c.step_id, table.c.timestamp, table.c.progress, table.c.data)
            .where(table.c.org_id == org_id, table.c.execution_id == execution_id, table.c.seq > after)
            .order_by(table.c.seq)
            .limit(limit)
        )
        if step_id is not None:
            items = table.c.step_id.startswith(f"{step_id}[", autoescape=True)
            query = query.where(or_(table.c.step_id == step_id, items))
        async with self._tenancy.transaction(org_id) as connection:
            rows = (await connection.execute(query)).all()
        return [
            Event(row.seq, row.type, row.step_id, row.timestamp, row.progress, decode(row.data))  # type: ignore[arg-type]
            for row in rows
        ]

    async def heads(self, execution_ids: Sequence[str]) -> Mapping[str, int]:
        rows = await self._link.read(HEADS, execution_ids)
        return {row["id"]: row["head"] for row in rows}

    async def ended(self, org_id: str, execution_id: str) -> bool:
        self._asking.start()
        return await self._asking.submit((org_id, execution_id))

    async def _ask(self, batch: Sequence[tuple[str, str]]) -> Sequence[bool]:
        rows = await self._link.read(ENDED, *map(list, zip(*batch, strict=True)))
        over = {row["id"] for row in rows}
        return [execution_id in over for _, execution_id in batch]


def _never_refused(_asked: tuple[str, str], _refusal: Refused) -> bool:
    return False
