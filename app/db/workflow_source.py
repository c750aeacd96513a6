"""Workflow versions for the engine, and the version a new execution uses: one round trip each."""

from app.db.link import PIN_PLANS, Connect, Link
from app.domain.jsontext import JSON, decode
from app.engine.ports import WorkflowHead

DEFINITION = "SELECT definition FROM workflow_versions WHERE org_id = $1 AND workflow_id = $2 AND version = $3"

HEAD = """
SELECT v.version, w.archived_at IS NOT NULL AS archived
  FROM workflows w
  JOIN workflow_versions v ON v.org_id = w.org_id AND v.workflow_id = w.id
   AND v.version = coalesce(w.published_version, w.latest_version)
 WHERE w.org_id = $1 AND w.id = $2"""


class WorkflowSource:
    """Implements `app.engine.ports.DefinitionSource`."""

    def __init__(self, connect: Connect) -> None:
        self._link = Link(connect, PIN_PLANS)

    async def close(self) -> None:
        await self._link.close()

    async def definition(self, org_id: str, workflow_id: str, version: int) -> JSON:
        rows = await self._link.read(DEFINITION, org_id, workflow_id, version)
        return decode(rows[0]["definition"]) if rows else None

    async def head(self, org_id: str, workflow_id: str) -> WorkflowHead | None:
        """None if the organisation has no such workflow, nor could have: the id is anything that a client wrote."""
        if "\x00" in workflow_id:
            return None
        rows = await self._link.read(HEAD, org_id, workflow_id)
        return WorkflowHead(rows[0]["version"], rows[0]["archived"]) if rows else None
