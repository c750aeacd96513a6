"""Executions on the wire."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.api.responses import stored
from app.db.queries.executions import Row
from app.domain.events import StreamEvent
from app.domain.states import AttemptStatus, ExecutionStatus, StepStatus
from app.services.executions import ExecutionDetail

LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,63}$")]
LabelValue = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]


class StartOptions(BaseModel):
    """How to start an execution."""

    model_config = ConfigDict(extra="forbid")

    input: Any = Field(default=None, description="Any JSON; checked against the workflow's `input` schema.")
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32)
    priority: int = Field(default=0, ge=-100, le=100, description="Higher is claimed first.")


class StartExecution(StartOptions):
    """Start an execution of a workflow."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"workflow_id": "wf_sales", "input": "Find leads in Berlin"}]},
    )

    workflow_id: str = Field(min_length=1, max_length=64)


class ControlRequest(BaseModel):
    """Why a person asks for it; shown in events and the audit log."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "Wrong input"}]})

    reason: Annotated[str, StringConstraints(max_length=500)] | None = None


class Execution(BaseModel):
    """The record of one run. `output` is null until it completes, `error` unless it failed."""

    id: str
    workflow_id: str
    workflow_version: int
    org_id: str
    user_id: str
    status: ExecutionStatus
    status_reason: str | None
    status_message: str | None
    input_data: Any
    output: Any
    error: str | None
    error_code: str | None
    agent_results: dict[str, Any]
    execution_graph: dict[str, Any]
    tokens_used: int
    cost: float
    duration_seconds: float | None
    progress: int
    retry_of: str | None
    labels: dict[str, str]
    wake_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


class Attempt(BaseModel):
    """One ended attempt of a step."""

    attempt: int
    status: AttemptStatus
    worker_id: str
    error: str | None
    error_code: str | None
    started_at: datetime | None
    completed_at: datetime


class Step(BaseModel):
    """One step of a run, PENDING if it has not been reached."""

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
    attempts: list[Attempt]


class Steps(BaseModel):
    """All steps of a run in topological order."""

    data: list[Step]


class ExecutionMetrics(BaseModel):
    """Figures of one run."""

    total_steps: int
    settled_steps: int
    successful_steps: int
    failed_steps: int
    skipped_steps: int
    attempts: int
    queue_seconds: float | None


class ExecutionWithSteps(Execution):
    """The record with its steps, attempts and figures."""

    steps: list[Step]
    metrics: ExecutionMetrics


class ExecutionPage(BaseModel):
    data: list[Execution]
    next_cursor: str | None
    has_more: bool


class EventPage(BaseModel):
    """Events in order; ask again with `after` = `last_seq`."""

    data: list[StreamEvent]
    last_seq: int
    has_more: bool


class LogEntry(BaseModel):
    """One line of a run's log; `scope` is `workflow` or the id of a step, `seq` that of its event."""

    seq: int
    timestamp: datetime
    level: Literal["debug", "info", "warning", "error"]
    scope: str
    message: str


class LogPage(BaseModel):
    data: list[LogEntry]
    last_seq: int
    has_more: bool


class StatusMetrics(BaseModel):
    count: int
    average_duration_seconds: float | None
    p95_duration_seconds: float | None
    tokens_used: int
    cost: float


class AggregateMetrics(BaseModel):
    """Figures over many executions."""

    total: int
    success_rate: float | None = Field(description="Completed of all ended; null if none has.")
    tokens_used: int
    cost: float
    by_status: dict[str, StatusMetrics]


def execution_view(row: Row) -> dict[str, Any]:
    """An execution as the wire shows it; stored JSON is passed through."""
    return {
        "id": row["id"],
        "workflow_id": row["workflow_id"],
        "workflow_version": row["workflow_version"],
        "org_id": row["org_id"],
        "user_id": row["user_id"],
        "status": row["status"],
        "status_reason": row["status_reason"],
        "status_message": row["status_message"],
        "input_data": stored(row["input_data"]),
        "output": stored(row["output"]),
        "error": row["error"],
        "error_code": row["error_code"],
        "agent_results": stored(row["agent_results"]),
        "execution_graph": stored(row["execution_graph"]),
        "tokens_used": row["tokens_used"],
        "cost": row["cost"],
        "duration_seconds": row["duration_seconds"],
        "progress": row["progress"],
        "retry_of": row["retry_of"],
        "labels": row["labels"],
        "wake_at": row["wake_at"],
        "created_at": row["created_at"],
        "started_at": row["started_at"],
        "completed_at": row["completed_at"],
    }


def detail_view(detail: ExecutionDetail) -> dict[str, Any]:
    """An execution with its steps in topological order."""
    attempts: dict[str, list[dict[str, Any]]] = {}
    for row in detail.attempts:
        attempts.setdefault(row["path"], []).append(_attempt_view(row))
    reached = {row["path"]: _step_view(row, attempts.get(row["path"], [])) for row in detail.steps}
    if detail.workflow is not None:
        for step in detail.workflow.steps:
            pending = _pending_view(step.id, step.number, step.definition.title, step.definition.type)
            reached.setdefault(step.id, pending)
    steps = sorted(reached.values(), key=lambda step: (step["step_number"], step["id"]))
    return execution_view(detail.row) | {"steps": steps, "metrics": _metrics(detail.row, steps)}


def aggregate_view(rows: Sequence[Row]) -> dict[str, Any]:
    """Figures by status and together."""
    counts = {row["status"]: row["count"] for row in rows}
    ended = sum(count for status, count in counts.items() if ExecutionStatus(status).terminal)
    completed = counts.get(ExecutionStatus.COMPLETED.value, 0)
    names = ("count", "average_duration_seconds", "p95_duration_seconds", "tokens_used", "cost")
    return {
        "total": sum(counts.values()),
        "success_rate": completed / ended if ended else None,
        "tokens_used": int(sum(row["tokens_used"] for row in rows)),
        "cost": sum(row["cost"] for row in rows),
        "by_status": {row["status"]: {name: _number(row[name]) for name in names} for row in rows},
    }


def _number(value: Any) -> float | int | None:
    if value is None or isinstance(value, int | float):
        return value
    return int(value) if value == int(value) else float(value)


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
        "attempts": attempts,
    }


def _pending_view(step_id: str, number: int, name: str, kind: str) -> dict[str, Any]:
    blank = dict.fromkeys(
        (
            "reason", "input", "output", "error", "error_code", "wake_at", "started_at", "completed_at",
            "execution_time_ms",
        )
    )  # fmt: skip
    return blank | {
        "id": step_id,
        "step_number": number,
        "name": name,
        "type": kind,
        "status": StepStatus.PENDING.value,
        "attempt": 0,
        "ports": [],
        "tokens_used": 0,
        "cost": 0.0,
        "attempts": [],
    }


def _attempt_view(row: Row) -> dict[str, Any]:
    names = ("attempt", "status", "worker_id", "error", "error_code", "started_at", "completed_at")
    return {name: row[name] for name in names}


def _metrics(row: Row, steps: list[dict[str, Any]]) -> dict[str, Any]:
    statuses = [StepStatus(step["status"]) for step in steps]
    started = row["started_at"]
    return {
        "total_steps": len(steps),
        "settled_steps": sum(status.settled for status in statuses),
        "successful_steps": statuses.count(StepStatus.COMPLETED),
        "failed_steps": statuses.count(StepStatus.FAILED),
        "skipped_steps": statuses.count(StepStatus.SKIPPED),
        "attempts": sum(len(step["attempts"]) for step in steps),
        "queue_seconds": None if started is None else (started - row["created_at"]).total_seconds(),
    }
