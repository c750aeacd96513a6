"""Executions and transitions made by hand, for tests of what writes them."""

from datetime import timedelta
from typing import Any

from app import clock
from app.domain.changes import Event
from app.domain.errors import Failure
from app.domain.states import ExecutionStatus
from app.engine.rows import AttemptRow, EndRow, ExecutionRow, StepRow
from app.engine.transition import Transition
from tests.database import Database
from tests.engine.harness import ORG

LATER = clock.now() + timedelta(days=1)


async def owned(database: Database, workflow_id: str, *, owner: str = "w1", epoch: int = 1) -> str:
    """An accepted execution that belongs to a worker; its id."""
    execution_id = clock.new_id("exec")
    await database.execute(
        "INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, status, owner, "
        "lease_epoch, ip_address, user_agent) VALUES ($1, $1, $2, $3, 1, 'user_org_a', 'RUNNING', $4, $5, '192.0.2.1', "
        "'test')",
        execution_id, ORG, workflow_id, owner, epoch,
    )  # fmt: skip
    await database.execute(
        "INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, progress, data) "
        "SELECT id, 1, org_id, 'execution_queued', created_at, 0, '{}' FROM executions WHERE id = $1",
        execution_id,
    )
    await database.execute(
        "INSERT INTO audit_logs (id, org_id, action, resource_id, success) "
        "VALUES ($1, $2, 'execution.created', $3, true)",
        clock.new_id("audit"), ORG, execution_id,
    )  # fmt: skip
    return execution_id


def transition(
    execution_id: str,
    *,
    owner: str = "w1",
    epoch: int = 1,
    write_no: int = 1,
    seq: int = 2,
    step: str = "a",
    ends: ExecutionStatus | None = None,
    failure: Failure | None = None,
    **changes: Any,
) -> Transition:
    """One step was made; with `ends` that was the end of the run."""
    kinds = ["step_started", "step_completed", *([f"execution_{ends.value.lower()}"] if ends else [])]
    events = [
        Event(seq + offset, kind, step if kind.startswith("step") else None, LATER, 50, {})  # type: ignore[typeddict-item]
        for offset, kind in enumerate(kinds)
    ]
    values: dict[str, Any] = {
        "id": execution_id,
        "owner": owner,
        "epoch": epoch,
        "write_no": write_no,
        "status": (ends or ExecutionStatus.RUNNING).value,
        "status_reason": failure.code if failure else None,
        "status_message": failure.message if failure else None,
        "progress": 50,
        "next_seq": seq + len(events),
        "recorded_at": LATER,
        "started_at": LATER,
        "settles_step": True,
        "releases": ends is not None,
        "ends": ends is not None,
        "output_text": '{"done":true}' if ends is ExecutionStatus.COMPLETED else None,
        "error": failure.message if failure else None,
        "error_code": failure.code if failure else None,
    }
    values |= {name: changes.pop(name) for name in ExecutionRow._fields if name in changes}
    rows: dict[str, Any] = {
        "steps": [step_row(execution_id, step)],
        "attempts": [AttemptRow(execution_id, step, 1, "COMPLETED", None, None, LATER, LATER)],
        "events": events,
        "end": EndRow(execution_id, clock.new_id("audit"), ()) if ends else None,
    }
    return Transition(ExecutionRow(**values), **{**rows, **changes})


def step_row(execution_id: str, path: str = "a", **changes: Any) -> StepRow:
    fields: dict[str, Any] = {
        "execution_id": execution_id,
        "path": path,
        "number": 1,
        "name": path,
        "type": "log",
        "status": "COMPLETED",
        "attempt": 1,
        "failures": 0,
        "input_text": "{}",
        "output_text": "1",
        "ports": (),
        "error": None,
        "error_code": None,
        "reason": None,
        "wake_at": None,
        "started_at": LATER,
        "attempt_started_at": LATER,
        "completed_at": LATER,
        "execution_time_ms": 0.0,
        "tokens_used": 0,
        "cost": 0.0,
    }
    return StepRow(**{**fields, **changes})


async def written(database: Database, execution_id: str) -> dict[str, int]:
    """How many rows each table holds of an execution, and how often it was written."""
    row = await database.fetch(
        "SELECT write_no, (SELECT count(*) FROM execution_steps WHERE execution_id = $1) AS steps, "
        "(SELECT count(*) FROM step_attempts WHERE execution_id = $1) AS attempts, "
        "(SELECT count(*) FROM execution_events WHERE execution_id = $1) AS events, "
        "(SELECT count(*) FROM audit_logs WHERE details LIKE '%' || $1 || '%') AS audit "
        "FROM executions WHERE id = $1",
        execution_id,
    )
    return dict(row[0])
