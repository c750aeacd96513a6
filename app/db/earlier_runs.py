"""What the engine reads of executions that have ended, on a connection of its own."""

from app.db.link import PIN_PLANS, Connect, Link
from app.domain.carry import EarlierStep
from app.engine.ports import EarlierRun

CHILD = """
SELECT c.id, c.root_id, c.status, c.input_data, c.control FROM executions c
 WHERE c.org_id = $1 AND c.parent_path = $3 AND c.workflow_id = $4
   AND c.status IN ('COMPLETED', 'FAILED', 'CANCELLED')
   AND c.parent_id IN (SELECT id FROM executions WHERE root_id = $2 AND root_id <> id UNION ALL SELECT $2)
 ORDER BY c.created_at DESC, c.id DESC LIMIT 1"""

STEPS = "SELECT path, type, status, reason FROM execution_steps WHERE execution_id = $1"


class PostgresEarlierRuns:
    """Implements `app.engine.ports.EarlierRuns`."""

    def __init__(self, connect: Connect) -> None:
        self._link = Link(connect, PIN_PLANS)

    async def close(self) -> None:
        await self._link.close()

    async def child(self, org_id: str, root_id: str, path: str, workflow_id: str) -> EarlierRun | None:
        found = await self._link.read(CHILD, org_id, root_id, path, workflow_id)
        if not found:
            return None
        row = found[0]
        steps = [EarlierStep(**step) for step in await self._link.read(STEPS, row["id"])]
        return EarlierRun(row["id"], row["root_id"], row["status"], row["input_data"], row["control"], steps)
