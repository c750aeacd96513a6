"""Steps of executions on the wire."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from app.api.responses import stored
from app.db.queries.executions import Row
from app.domain.carry import split_item
from app.domain.compiled import CompiledStep
from app.domain.states import AttemptStatus, StepStatus
from app.services.executions import ExecutionDetail, StepRecords


class Attempt(BaseModel):
    """One ended attempt of a step. `trace` is there for those with the permission `traces.read`."""

    attempt: int
    status: AttemptStatus
    worker_id: str
    error: str | None
    error_code: str | None
    started_at: datetime | None
    completed_at: datetime
    trace: str | None = Field(default=None, description="The stack of an unexpected error.")


class Step(BaseModel):
    """One step of a run, PENDING if it has not been reached.

    Without the permission `payloads.read`, `input`, `output` and `awaits` are null.
    """

    id: str
    step_number: int
    name: str
    type: str
    status: StepStatus
    reason: str | None
    attempt: int
    input: Any
    output: Any
    ports: list[str]
    error: str | None
    error_code: str | None
    wake_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    execution_time_ms: float | None
    tokens_used: int
    cost: float
    iteration: int = Field(description="How often a repeated step has been repeated.")
    items: int | None = Field(description="How many items a `for_each` step has; they are listed apart.")
    awaits: dict[str, Any] | None = Field(description="What a waiting step waits for besides a time.")
    reused_from: str | None = Field(description="The execution whose step this is.")
    edited_by: str | None = Field(description="Who gave the step another output.")
    attempts: list[Attempt]


class Steps(BaseModel):
    """All steps of a run in topological order."""

    data: list[Step]


class Item(Step):
    """One item of a `for_each` step; its id is like `map[3]`."""

    index: int


class ItemPage(BaseModel):
    """A page of items that have started, in order."""

    data: list[Item]
    next_cursor: str | None
    has_more: bool


def step_views(detail: ExecutionDetail) -> list[dict[str, Any]]:
    """The steps of an execution in topological order, also those not reached yet."""
    attempts = _attempts_by_path(detail.attempts, traces=detail.traces)
    reached = {row["path"]: _step_view(row, attempts.get(row["path"], [])) for row in detail.steps}
    if detail.workflow is not None:
        for step in detail.workflow.steps:
            reached.setdefault(step.id, _pending_view(step))
    return sorted(reached.values(), key=lambda step: (step["step_number"], step["id"]))


def step_view(detail: ExecutionDetail, path: str) -> dict[str, Any] | None:
    """One step or item of an execution; None if it has no such step."""
    attempts = _attempts_by_path(detail.attempts, traces=detail.traces)
    for row in detail.steps:
        if row["path"] == path:
            return _step_view(row, attempts.get(path, []))
    step = None if detail.workflow is None else detail.workflow.by_id.get(path)
    return None if step is None else _pending_view(step)


def item_views(records: StepRecords) -> list[dict[str, Any]]:
    """The items of a step."""
    attempts = _attempts_by_path(records.attempts, traces=records.traces)
    return [
        _step_view(row, attempts.get(row["path"], [])) | {"index": split_item(row["path"])[1]} for row in records.steps
    ]


def _step_view(row: Row, attempts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": row["path"],
        "step_number": row["step_number"],
        "name": row["name"],
        "type": row["type"],
        "status": row["status"],
        "reason": row["reason"],
        "attempt": row["attempt"],
        "input": stored(row["input"]),
        "output": stored(row["output"]),
        "ports": row["ports"],
        "error": row["error"],
        "error_code": row["error_code"],
        "wake_at": row["wake_at"],
        "started_at": row["started_at"],
        "completed_at": row["completed_at"],
        "execution_time_ms": row["execution_time_ms"],
        "tokens_used": row["tokens_used"],
        "cost": row["cost"],
        "iteration": row["iteration"],
        "items": row["items"],
        "awaits": stored(row["awaits"]),
        "reused_from": row["reused_from"],
        "edited_by": row["edited_by"],
        "attempts": attempts,
    }


def _pending_view(step: CompiledStep) -> dict[str, Any]:
    blank = dict.fromkeys(
        (
            "reason", "input", "output", "error", "error_code", "wake_at", "started_at", "completed_at",
            "execution_time_ms", "items", "awaits", "reused_from", "edited_by",
        )
    )  # fmt: skip
    return blank | {
        "id": step.id,
        "step_number": step.number,
        "name": step.definition.title,
        "type": step.definition.type,
        "status": StepStatus.PENDING.value,
        "attempt": 0,
        "ports": [],
        "tokens_used": 0,
        "cost": 0.0,
        "iteration": 0,
        "attempts": [],
    }


def _attempts_by_path(rows: Sequence[Row], *, traces: bool) -> dict[str, list[dict[str, Any]]]:
    names = ["attempt", "status", "worker_id", "error", "error_code", "started_at", "completed_at"]
    if traces:
        names.append("trace")
    attempts: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        attempts.setdefault(row["path"], []).append({name: row[name] for name in names})
    return attempts
