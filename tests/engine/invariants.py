"""What must hold in the tables after every test, whatever happened in it."""

from collections import defaultdict
from typing import Any

from app.domain.jsontext import decode
from tests.database import Database

CUT_SHORT = ("record_rejected", "internal_error", "poison", "workflow_invalid")
"""Executions that were ended with the least that could be written: their steps stay as they were."""

MUST_BE_EMPTY = {
    "events are gapless from 1, and next_seq follows the last": """
        SELECT e.id FROM executions e LEFT JOIN execution_events v ON v.execution_id = e.id GROUP BY e.id
        HAVING min(v.seq) IS DISTINCT FROM 1 OR count(*) <> max(v.seq) OR e.next_seq <> max(v.seq) + 1""",
    "a terminal execution has one terminal event, the last, and no other execution has one": """
        SELECT e.id FROM executions e JOIN execution_events v ON v.execution_id = e.id GROUP BY e.id
        HAVING count(*) FILTER (WHERE v.type IN ('execution_completed', 'execution_failed', 'execution_cancelled'))
               <> (e.status IN ('COMPLETED', 'FAILED', 'CANCELLED'))::int
            OR e.status IN ('COMPLETED', 'FAILED', 'CANCELLED')
               AND (array_agg(v.type ORDER BY v.seq DESC))[1] <> 'execution_' || lower(e.status)""",
    "time and progress never go backwards along seq": """
        SELECT * FROM (SELECT execution_id, seq, timestamp, progress,
                              lag(timestamp) OVER w AS before, lag(progress) OVER w AS less
                         FROM execution_events WINDOW w AS (PARTITION BY execution_id ORDER BY seq)) x
         WHERE timestamp < before OR progress < less""",
    "a terminal execution is nobody's, has ended, and waits for nothing": """
        SELECT id FROM executions WHERE status IN ('COMPLETED', 'FAILED', 'CANCELLED')
           AND (owner IS NOT NULL OR completed_at IS NULL OR wake_at IS NOT NULL)""",
    "what waits knows when to wake, unless it waits for another execution": """
        SELECT id FROM executions e WHERE status = 'WAITING' AND owner IS NULL AND wake_at IS NULL AND NOT EXISTS (
          SELECT FROM execution_steps s WHERE s.execution_id = e.id AND s.status = 'WAITING' AND s.reason = 'child')""",
    "who waits for another execution waits for one that goes on, or has mail of its end": """
        SELECT s.execution_id FROM execution_steps s
         WHERE s.status = 'WAITING' AND s.reason = 'child' AND NOT EXISTS (
           SELECT FROM executions c WHERE c.id = s.awaits::jsonb -> 'topics' ->> 0
              AND (c.status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED') OR EXISTS (
                SELECT FROM execution_inbox i WHERE i.execution_id = s.execution_id AND i.topic = c.id)))""",
    "an approval is open exactly while its execution waits for it": """
        SELECT a.id FROM approvals a JOIN executions e ON e.id = a.execution_id
         WHERE (a.status = 'PENDING') <> (a.decided_at IS NULL)
            OR a.status = 'PENDING' AND e.status IN ('COMPLETED', 'FAILED', 'CANCELLED')""",
    "a letter is used by a step of its execution that has begun": """
        SELECT i.id FROM execution_inbox i WHERE i.consumed_by <> '' AND NOT EXISTS (
          SELECT FROM execution_steps s WHERE s.execution_id = i.execution_id AND s.path = i.consumed_by)""",
    "items are as many as their step says, once it has completed": """
        SELECT s.execution_id, s.path FROM execution_steps s
         WHERE s.items IS NOT NULL AND s.status = 'COMPLETED' AND s.reused_from IS NULL AND s.items <> (
           SELECT count(*) FROM execution_steps i
            WHERE i.execution_id = s.execution_id AND starts_with(i.path, s.path || '['))""",
    "no lease epoch is from the future": """
        SELECT s.execution_id FROM execution_steps s JOIN executions e ON e.id = s.execution_id
         WHERE s.epoch > e.lease_epoch""",
    "ended attempts are numbered 1, 2, 3": """
        SELECT execution_id, path FROM step_attempts GROUP BY 1, 2
        HAVING min(attempt) <> 1 OR count(*) <> max(attempt)""",
    "at most one attempt of a step completed": """
        SELECT a.execution_id, a.path FROM step_attempts a JOIN execution_steps s USING (execution_id, path)
         WHERE a.status = 'COMPLETED' GROUP BY 1, 2 HAVING count(*) > 1 + max(s.iteration)""",
    "steps, attempts and events belong to an execution": """
        SELECT execution_id FROM execution_steps WHERE execution_id NOT IN (SELECT id FROM executions)
        UNION ALL SELECT execution_id FROM step_attempts WHERE execution_id NOT IN (SELECT id FROM executions)
        UNION ALL SELECT execution_id FROM execution_events WHERE execution_id NOT IN (SELECT id FROM executions)""",
    "the counters of a workflow count its executions": """
        SELECT w.id FROM workflows w LEFT JOIN executions e ON e.workflow_id = w.id GROUP BY w.org_id, w.id
        HAVING w.execution_count <> count(*) FILTER (WHERE e.status IN ('COMPLETED', 'FAILED', 'CANCELLED'))
            OR w.success_count <> count(*) FILTER (WHERE e.status = 'COMPLETED')
            OR w.failure_count <> count(*) FILTER (WHERE e.status = 'FAILED')
            OR w.cancelled_count <> count(*) FILTER (WHERE e.status = 'CANCELLED')
            OR w.last_executed_at IS DISTINCT FROM max(e.completed_at)""",
    "accepting and ending leave one audit row each": """
        SELECT e.id FROM executions e LEFT JOIN audit_logs a
            ON a.resource_id = e.id AND a.action = 'execution.created'
            OR a.action = 'workflow.executed' AND a.details::jsonb ->> 'execution_id' = e.id
         GROUP BY e.id
        HAVING count(*) FILTER (WHERE a.action = 'execution.created') <> 1
            OR count(*) FILTER (WHERE a.action = 'workflow.executed')
               <> (e.status IN ('COMPLETED', 'FAILED', 'CANCELLED'))::int""",
    "no step starts once a cancel is acknowledged": """
        SELECT s.execution_id FROM execution_events s JOIN execution_events c USING (execution_id)
         WHERE c.type = 'execution_cancelling' AND s.type = 'step_started' AND s.seq > c.seq""",
}

STEP_STATUS = {
    "step_started": "RUNNING",
    "step_waiting": "WAITING",
    "step_retrying": "WAITING",
    "step_completed": "COMPLETED",
    "step_failed": "FAILED",
    "step_cancelled": "CANCELLED",
    "step_skipped": "SKIPPED",
    "step_pinned": "COMPLETED",
}
SETTLING = {"step_completed", "step_failed", "step_cancelled", "step_skipped", "step_pinned", "step_reused"}


async def check(database: Database) -> None:
    """Assert all of it."""
    for rule, query in MUST_BE_EMPTY.items():
        assert not await database.fetch(query), rule
    executions = {row["id"]: row for row in await database.fetch("SELECT * FROM executions")}
    events = _grouped(await database.fetch("SELECT * FROM execution_events ORDER BY seq"))
    steps = _grouped(
        await database.fetch("SELECT execution_id, path, status, reason, reused_from FROM execution_steps")
    )
    for execution_id, row in executions.items():
        if row["error_code"] not in CUT_SHORT:
            _check_projection(row, events[execution_id], steps[execution_id])
        _check_dependencies(row, events[execution_id])


def _check_projection(row: Any, events: list[Any], steps: list[Any]) -> None:
    """The events alone tell how far the execution and each of its steps have come."""
    told: dict[str, str] = {}
    for event in events:
        if event["type"] in STEP_STATUS and "[" not in event["step_id"]:
            assert told.get(event["step_id"]) not in {"COMPLETED", "FAILED", "SKIPPED", "CANCELLED"}, (row["id"], event)
            told[event["step_id"]] = STEP_STATUS[event["type"]]
    # A retry that began is not an event of its own: its step runs, or waits for the next try. Nor is a further round.
    steps = [step for step in steps if "[" not in step["path"] and step["reused_from"] is None]
    stored = {step["path"]: step["status"] for step in steps}
    rounds = {step["path"] for step in steps if step["reason"] == "repeat"}
    for path in {*told, *stored}:
        again = (told.get(path) == "WAITING" and stored.get(path) == "RUNNING") or path in rounds
        assert again or told.get(path) == stored.get(path), (row["id"], path, told.get(path), stored.get(path))
    if row["status"] in {"COMPLETED", "FAILED", "CANCELLED"}:
        assert not {"RUNNING", "WAITING"} & set(stored.values()), (row["id"], stored)


def _check_dependencies(row: Any, events: list[Any]) -> None:
    """A step starts behind all its needs; a skipped one never starts."""
    started = {event["step_id"]: event["seq"] for event in events if event["type"] == "step_started"}
    settled = {event["step_id"]: event["seq"] for event in events if event["type"] in SETTLING}
    skipped = {event["step_id"] for event in events if event["type"] == "step_skipped"}
    assert not skipped & set(started), (row["id"], skipped & set(started))
    for edge in decode(row["execution_graph"]).get("edges", []):
        if edge["to"] in started:
            assert settled[edge["from"]] < started[edge["to"]], (row["id"], edge)


def _grouped(rows: list[Any]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        groups[row["execution_id"]].append(row)
    return groups
