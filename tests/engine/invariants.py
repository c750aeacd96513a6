"""What must hold in the tables after every test, whatever happened in it."""

from collections import defaultdict
from typing import Any

from app.db.invariants import examine
from app.db.urls import ENGINE
from tests.database import Database

CUT_SHORT = ("record_rejected", "internal_error", "poison", "workflow_invalid")
"""Executions that were ended with the least that could be written: their steps stay as they were."""

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


async def check(database: Database) -> None:
    """Assert all of it."""
    async with database.connected(ENGINE) as connection:
        verdicts = await examine(connection)
    assert [verdict for verdict in verdicts if verdict.count or verdict.unknown] == []
    executions = {row["id"]: row for row in await database.fetch("SELECT * FROM executions")}
    events = _grouped(await database.fetch("SELECT * FROM execution_events ORDER BY seq"))
    steps = _grouped(
        await database.fetch("SELECT execution_id, path, status, reason, reused_from FROM execution_steps")
    )
    for execution_id, row in executions.items():
        if row["error_code"] not in CUT_SHORT:
            _check_projection(row, events[execution_id], steps[execution_id])


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


def _grouped(rows: list[Any]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        groups[row["execution_id"]].append(row)
    return groups
