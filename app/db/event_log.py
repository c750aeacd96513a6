"""Reading the durable events: by cursor within the tenant's scope, and heads for the poller."""

from collections.abc import Mapping, Sequence

from app.db.group_commit import GroupCommit, Refused
from app.db.link import PIN_PLANS, Connect, Link
from app.db.tenancy import TenantReads
from app.domain.changes import Event
from app.domain.jsontext import decode

ENDED = """
SELECT e.id FROM unnest($1::text[], $2::text[]) AS asked(org_id, id)
  JOIN executions e ON e.org_id = asked.org_id AND e.id = asked.id
 WHERE e.status IN ('COMPLETED', 'FAILED', 'CANCELLED')"""

READ = """
SELECT e.seq, e.type, e.step_id, e.timestamp, e.progress, e.data FROM execution_events e
 WHERE e.org_id = bound.org_id AND e.execution_id = $2 AND e.seq > $3
   AND ($5::text IS NULL OR e.step_id = $5 OR starts_with(e.step_id, $5 || '['))
 ORDER BY e.seq LIMIT $4"""

HEADS = "SELECT id, next_seq - 1 AS head FROM executions WHERE id = ANY($1::text[])"


class PostgresEventLog:
    """Implements `app.engine.ports.EventLog`."""

    def __init__(self, reads: TenantReads, connect: Connect) -> None:
        self._reads = reads
        self._link = Link(connect, PIN_PLANS)
        self._asking = GroupCommit[tuple[str, str], bool](self._ask, _never_refused)

    async def close(self) -> None:
        await self._asking.stop()
        await self._link.close()

    async def read(
        self, org_id: str, execution_id: str, after: int, limit: int, step_id: str | None = None
    ) -> Sequence[Event]:
        rows = await self._reads.fetch(org_id, READ, execution_id, after, limit, step_id)
        return [
            Event(row["seq"], row["type"], row["step_id"], row["timestamp"], row["progress"], decode(row["data"]))  # type: ignore[arg-type]
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
