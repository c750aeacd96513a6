"""Claiming: executions without an owner, fairly ordered, taken under row locks that raise the lease epoch."""

from collections import defaultdict
from collections.abc import Sequence

import asyncpg

from app.db.link import PIN_PLANS, Connect, Link
from app.domain.jsontext import decode
from app.engine.ports import Claim, Mail, StoredStep

CLAIM = """
WITH due AS (
  SELECT id FROM executions WHERE owner IS NULL AND status IN ('WAITING', 'PAUSED') AND wake_at <= now()
   ORDER BY wake_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
), called AS (
  SELECT id FROM executions WHERE owner IS NULL AND status IN ('WAITING', 'PAUSED')
     AND id IN (SELECT execution_id FROM execution_inbox WHERE applied_at IS NULL) AND id NOT IN (SELECT id FROM due)
   LIMIT $2 - (SELECT count(*) FROM due) FOR NO KEY UPDATE SKIP LOCKED
), ready AS (
  SELECT id FROM executions WHERE owner IS NULL AND status IN ('PENDING', 'RUNNING', 'CANCELLING')
   ORDER BY priority DESC, created_at
   LIMIT $2 - (SELECT count(*) FROM due) - (SELECT count(*) FROM called) FOR NO KEY UPDATE SKIP LOCKED
), picked AS (
  SELECT id FROM due UNION ALL SELECT id FROM called UNION ALL SELECT id FROM ready
)
UPDATE executions e SET owner = $1, lease_epoch = e.lease_epoch + 1
  FROM picked WHERE e.id = picked.id AND EXISTS (SELECT FROM workers w WHERE w.id = $1)
RETURNING e.id, e.org_id, e.workflow_id, e.workflow_version, e.user_id, e.root_id, e.status, e.input_data,
  e.agent_results, e.progress, e.created_at, e.started_at, e.deadline_at, e.last_recorded_at, e.owner, e.lease_epoch,
  e.write_no, e.next_seq, e.recoveries, clock_timestamp() AS claimed_at,
  EXISTS (SELECT FROM execution_inbox i WHERE i.execution_id = e.id AND i.applied_at IS NULL) AS has_mail"""
"""Only who has a lease takes anything. Who woke goes first, then the rest by priority and age. No more rows are locked
than are taken, so that claimers do not hide work from each other."""

RELEASE = """
UPDATE executions e SET owner = NULL
 WHERE e.owner = $1 AND NOT EXISTS (SELECT FROM unnest($2::text[]) AS kept(id) WHERE kept.id = e.id)
RETURNING e.id"""

STEPS = """
SELECT execution_id, path, status, attempt, failures, input, output, ports, error, error_code, reason, wake_at,
       started_at, attempt_started_at, completed_at, execution_time_ms, tokens_used, cost
  FROM execution_steps WHERE execution_id = ANY($1::text[])"""

UNREAD = """
SELECT id, execution_id, kind, payload, user_id FROM execution_inbox
 WHERE execution_id = ANY($1::text[]) AND applied_at IS NULL
 ORDER BY id"""

APPLIED_CANCELS = """
SELECT id, execution_id, kind, payload, user_id FROM execution_inbox
 WHERE execution_id = ANY($1::text[]) AND applied_at IS NOT NULL AND kind = 'cancel'
 ORDER BY id"""
"""Why a run that changed hands is being cancelled, and who asked for it."""

WITH_MAIL = """
SELECT DISTINCT i.execution_id FROM execution_inbox i JOIN executions e ON e.id = i.execution_id
 WHERE i.applied_at IS NULL AND e.owner = $1"""

DEPTH = """
SELECT count(*) AS depth, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest
  FROM executions WHERE owner IS NULL AND status IN ('PENDING', 'RUNNING', 'CANCELLING')"""


class Queue:
    """Implements `app.engine.ports.ExecutionQueue`."""

    def __init__(self, connect: Connect) -> None:
        self._claims = Link(connect, PIN_PLANS)
        self._reads = Link(connect, PIN_PLANS)

    async def close(self) -> None:
        await self._claims.close()
        await self._reads.close()

    async def claim(self, worker_id: str, limit: int) -> list[Claim]:
        rows = await self._claims.fetch(CLAIM, worker_id, limit)
        steps = await self._steps([row["id"] for row in rows if row["write_no"] > 0])
        mail = await self._mail(APPLIED_CANCELS, [row["id"] for row in rows if row["status"] == "CANCELLING"])
        unread = await self._mail(UNREAD, [row["id"] for row in rows if row["has_mail"]])
        ordered = sorted(rows, key=lambda row: row["created_at"])
        return [_claim(row, steps[row["id"]], mail[row["id"]] + unread[row["id"]]) for row in ordered]

    async def release(self, worker_id: str, keep: Sequence[str]) -> int:
        return len(await self._claims.fetch(RELEASE, worker_id, keep))

    async def mail(self, execution_id: str) -> list[Mail]:
        return (await self._mail(UNREAD, [execution_id]))[execution_id]

    async def with_mail(self, worker_id: str) -> list[str]:
        return [row["execution_id"] for row in await self._reads.read(WITH_MAIL, worker_id)]

    async def depth(self) -> tuple[int, float]:
        """How many executions wait for an owner, and the age of the oldest in seconds."""
        row = (await self._reads.read(DEPTH))[0]
        return int(row["depth"]), float(row["oldest"])

    async def _steps(self, execution_ids: Sequence[str]) -> dict[str, list[StoredStep]]:
        found: dict[str, list[StoredStep]] = defaultdict(list)
        if execution_ids:
            for row in await self._claims.read(STEPS, execution_ids):
                found[row["execution_id"]].append(_stored_step(row))
        return found

    async def _mail(self, query: str, execution_ids: Sequence[str]) -> dict[str, list[Mail]]:
        found: dict[str, list[Mail]] = defaultdict(list)
        if execution_ids:
            for row in await self._reads.read(query, execution_ids):
                item = Mail(row["id"], row["kind"], decode(row["payload"]), row["user_id"])
                found[row["execution_id"]].append(item)
        return found


def _claim(row: asyncpg.Record, steps: list[StoredStep], mail: list[Mail]) -> Claim:
    return Claim(
        id=row["id"],
        org_id=row["org_id"],
        workflow_id=row["workflow_id"],
        workflow_version=row["workflow_version"],
        user_id=row["user_id"],
        root_id=row["root_id"],
        status=row["status"],
        input_text=row["input_data"],
        agent_results_text=row["agent_results"],
        progress=row["progress"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        deadline_at=row["deadline_at"],
        last_recorded_at=row["last_recorded_at"],
        owner=row["owner"],
        epoch=row["lease_epoch"],
        write_no=row["write_no"],
        next_seq=row["next_seq"],
        recoveries=row["recoveries"],
        claimed_at=row["claimed_at"],
        steps=steps,
        mail=mail,
    )


def _stored_step(row: asyncpg.Record) -> StoredStep:
    return StoredStep(
        path=row["path"],
        status=row["status"],
        attempt=row["attempt"],
        failures=row["failures"],
        input_text=row["input"],
        output_text=row["output"],
        ports=frozenset(row["ports"]),
        error=row["error"],
        error_code=row["error_code"],
        reason=row["reason"],
        wake_at=row["wake_at"],
        started_at=row["started_at"],
        attempt_started_at=row["attempt_started_at"],
        completed_at=row["completed_at"],
        execution_time_ms=row["execution_time_ms"],
        tokens_used=row["tokens_used"],
        cost=row["cost"],
    )
