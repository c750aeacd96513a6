"""Workflow versions for the engine, and the version a new execution uses."""

import re
from collections.abc import Sequence

from app.db.group_commit import GroupCommit, Refused
from app.db.link import PIN_PLANS, Connect, Link
from app.domain.jsontext import JSON, decode
from app.engine.ports import WorkflowHead

DEFINITION = "SELECT definition FROM workflow_versions WHERE org_id = $1 AND workflow_id = $2 AND version = $3"

HEADS = """
SELECT w.org_id, w.id, v.version, w.archived_at IS NOT NULL AS archived
  FROM unnest($1::text[], $2::text[]) AS t(org_id, id)
  JOIN workflows w USING (org_id, id)
  JOIN workflow_versions v ON v.org_id = w.org_id AND v.workflow_id = w.id
   AND v.version = coalesce(w.published_version, w.latest_version)"""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

Wanted = tuple[str, str]
"""An organisation and a workflow."""


class WorkflowSource:
    """Implements `app.engine.ports.DefinitionSource`.

    Whoever starts an execution asks for its workflow's head, so a crowd asks together: those who come while one
    question is under way are the next question, which sees whatever was saved before they came.
    """

    def __init__(self, connect: Connect) -> None:
        self._link = Link(connect, PIN_PLANS)
        self._heads = GroupCommit[Wanted, WorkflowHead | None](self._read_heads, _refused)

    async def close(self) -> None:
        await self._heads.stop()
        await self._link.close()

    async def definition(self, org_id: str, workflow_id: str, version: int) -> JSON:
        rows = await self._link.read(DEFINITION, org_id, workflow_id, version)
        return decode(rows[0]["definition"]) if rows else None

    async def head(self, org_id: str, workflow_id: str) -> WorkflowHead | None:
        """None if the organisation has no such workflow, nor could have: the id is anything that a client wrote."""
        if not _ID.fullmatch(workflow_id):
            return None  # the database might refuse it, and with it the whole question
        self._heads.start()
        return await self._heads.submit((org_id, workflow_id))

    async def _read_heads(self, wanted: Sequence[Wanted]) -> Sequence[WorkflowHead | None]:
        distinct = list(dict.fromkeys(wanted))
        rows = await self._link.read(HEADS, [org_id for org_id, _ in distinct], [id_ for _, id_ in distinct])
        found = {(row["org_id"], row["id"]): WorkflowHead(row["version"], row["archived"]) for row in rows}
        return [found.get(each) for each in wanted]


def _refused(_wanted: Wanted, error: Refused) -> None:
    raise error
