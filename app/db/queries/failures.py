"""Failure groups: executions that failed in the same way, read within the tenant's scope."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.queries.executions import SHOWN, Row, fetch_rows
from app.db.tables import executions as table

LISTED = 20
"""Executions of a group."""


@dataclass(frozen=True, slots=True)
class FailureFilter:
    """What failure groups are narrowed to; empty fields narrow nothing."""

    workflow_id: str | None = None
    created_after: datetime | None = None


GROUPS = text("""
WITH RECURSIVE kinds(fingerprint) AS (
  (SELECT e.fingerprint FROM executions e
    WHERE e.org_id = :org_id AND e.fingerprint IS NOT NULL
      AND e.fingerprint >= coalesce(CAST(:fingerprint AS text), '')
    ORDER BY e.fingerprint LIMIT 1)
  UNION ALL
  SELECT (SELECT e.fingerprint FROM executions e
           WHERE e.org_id = :org_id AND e.fingerprint IS NOT NULL AND e.fingerprint > kinds.fingerprint
           ORDER BY e.fingerprint LIMIT 1)
    FROM kinds WHERE kinds.fingerprint IS NOT NULL AND CAST(:fingerprint AS text) IS NULL
), newest AS (
  SELECT kinds.fingerprint, latest.*
    FROM kinds CROSS JOIN LATERAL (
      SELECT e.id, e.workflow_id, e.created_at FROM executions e
       WHERE e.org_id = :org_id AND e.fingerprint = kinds.fingerprint ORDER BY e.id DESC LIMIT 1) AS latest
   WHERE (CAST(:fingerprint AS text) IS NULL OR kinds.fingerprint = :fingerprint)
     AND (CAST(:workflow_id AS text) IS NULL OR latest.workflow_id = :workflow_id)
     AND (CAST(:created_after AS timestamptz) IS NULL OR latest.created_at >= :created_after)
     AND (CAST(:before AS text) IS NULL OR latest.id < :before)
   ORDER BY latest.id DESC LIMIT :limit
)
SELECT newest.fingerprint, newest.id AS latest_execution_id, latest.error AS sample_message, latest.error_code,
       failed.path AS step_id, counted.count, counted.workflow_ids, counted.first_seen, counted.last_seen
  FROM newest
  JOIN executions latest ON latest.org_id = :org_id AND latest.id = newest.id
  CROSS JOIN LATERAL (
    SELECT count(*) AS count, array_agg(DISTINCT e.workflow_id) AS workflow_ids,
           min(coalesce(e.completed_at, e.created_at)) AS first_seen,
           max(coalesce(e.completed_at, e.created_at)) AS last_seen
      FROM executions e
     WHERE e.org_id = :org_id AND e.fingerprint = newest.fingerprint
       AND (CAST(:created_after AS timestamptz) IS NULL OR e.created_at >= :created_after)) AS counted
  LEFT JOIN LATERAL (
    SELECT s.path FROM execution_steps s
     WHERE s.org_id = :org_id AND s.execution_id = newest.id AND s.status = 'FAILED' AND strpos(s.path, '[') = 0
       AND s.error_code = latest.error_code AND s.error = latest.error
     ORDER BY s.completed_at, s.step_number LIMIT 1) AS failed ON true
 ORDER BY newest.id DESC""")
"""Jumps from fingerprint to fingerprint in the index, so that the price is by groups, not by failures; only the groups
of the page are counted."""


async def failure_groups(
    connection: AsyncConnection,
    org_id: str,
    wanted: FailureFilter,
    *,
    before: str | None,
    limit: int,
    fingerprint: str | None = None,
) -> Sequence[Row]:
    """Groups whose newest execution has an id < `before`, the newest first."""
    values = {
        "org_id": org_id,
        "fingerprint": fingerprint,
        "workflow_id": wanted.workflow_id,
        "created_after": wanted.created_after,
        "before": before,
        "limit": limit,
    }
    return await fetch_rows(connection, GROUPS, values)


async def with_fingerprint(connection: AsyncConnection, org_id: str, fingerprint: str) -> Sequence[Row]:
    """The newest executions of a failure group."""
    query = (
        select(*SHOWN)
        .where(table.c.org_id == org_id, table.c.fingerprint == fingerprint)
        .order_by(table.c.id.desc())
        .limit(LISTED)
    )
    return await fetch_rows(connection, query)
