"""Executions on the wire."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StringConstraints

from app.api.responses import stored
from app.api.v1.schemas.execution_steps import Step, step_views
from app.api.v1.schemas.moments import Moment
from app.api.v1.schemas.outlook import WithOutlook
from app.db.queries.executions import Row
from app.domain.definition import Budget
from app.domain.durations import Span
from app.domain.events import StreamEvent
from app.domain.jsontext import JSON, decode
from app.domain.states import ExecutionStatus, StepStatus
from app.services.executions import ExecutionDetail

LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,63}$")]
LabelValue = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]


def at_most(count: int) -> BeforeValidator:
    """Refuses larger objects before it looks at what is in them: each problem of a million costs time and memory."""

    def counted(value: object) -> object:
        if isinstance(value, dict) and len(value) > count:
            raise ValueError(f"at most {count} members")
        return value

    return BeforeValidator(counted)


Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32), at_most(32)]
StepName = Annotated[str, StringConstraints(min_length=1, max_length=63)]
Breakpoints = Annotated[list[StepName], Field(max_length=500)]
Pins = Annotated[dict[StepName, Any], Field(max_length=500), at_most(500)]


class StartOptions(BaseModel):
    """How to start an execution."""

    model_config = ConfigDict(extra="forbid")

    input: Any = Field(default=None, description="Any JSON; checked against the workflow's `input` schema.")
    labels: Labels = Field(default_factory=dict)
    priority: StrictInt = Field(default=0, ge=-100, le=100, description="Higher is claimed first.")
    start_at: Moment | None = Field(
        default=None, description="Not before this time, at most 366 days ahead.", examples=["2030-01-01T06:00:00Z"]
    )
    queue_ttl: Span | None = Field(
        default=None, description="Fails if it has not begun so long after it might; none: as the workflow says."
    )
    breakpoints: Breakpoints = Field(default_factory=list, description="Steps to pause before.")
    pins: Pins = Field(default_factory=dict, description="Outputs of steps by id; those steps do not run.")
    budget: Budget | None = Field(
        default=None, description="Limits that pause the execution; by default its workflow's."
    )

    def control(self) -> dict[str, JSON]:
        """What is asked of the execution besides its input, without what is not used."""
        asked: dict[str, JSON] = {"breakpoints": [*self.breakpoints], "pins": self.pins}
        if self.budget is not None:
            asked["budget"] = self.budget.model_dump(exclude_none=True)
        return {name: value for name, value in asked.items() if value}


class StartExecution(StartOptions):
    """Start an execution of a workflow."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"workflow_id": "wf_sales", "input": "Find leads in Berlin"}]},
    )

    workflow_id: str = Field(min_length=1, max_length=64)


class Execution(BaseModel):
    """The record of one run. `output` is null until it completes, `error` unless it failed.

    Without the permission `payloads.read`, `input_data` and `output` are null and `agent_results` is empty.
    """

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
    retry_of: str | None = Field(description="The execution that this one repairs.")
    forked_from: str | None = Field(description="The execution that this one replays.")
    parent_id: str | None = Field(description="The execution whose step started this one.")
    labels: dict[str, str]
    wake_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


class ExecutionMetrics(BaseModel):
    """Figures of one run."""

    total_steps: int
    settled_steps: int
    successful_steps: int
    failed_steps: int
    skipped_steps: int
    attempts: int
    queue_seconds: float | None


class Pause(BaseModel):
    """Why no step starts, and who asked for it; `at` is the step it is held before."""

    model_config = ConfigDict(extra="allow")

    reason: str
    detail: str | None = None
    user_id: str | None = None
    at: str | None = None


class ControlState(BaseModel):
    """What people have asked of the execution. `pins` names the steps whose output is given."""

    breakpoints: list[str]
    pins: list[str]
    only: str | None = Field(description="The one step to run.")
    budget: Budget | None
    pause: Pause | None


class ExecutionWithSteps(Execution, WithOutlook):
    """The record with its steps, attempts and figures; `root_id` is the first of its line of retries and replays."""

    root_id: str
    priority: int
    control: ControlState
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
        "forked_from": row["forked_from"],
        "parent_id": row["parent_id"],
        "labels": row["labels"],
        "wake_at": row["wake_at"],
        "created_at": row["created_at"],
        "started_at": row["started_at"],
        "completed_at": row["completed_at"],
    }


def detail_view(detail: ExecutionDetail) -> dict[str, Any]:
    """An execution with its steps in topological order."""
    steps = step_views(detail)
    return execution_view(detail.row) | {
        "root_id": detail.row["root_id"],
        "priority": detail.row["priority"],
        "control": control_view(detail.row["control"]),
        "steps": steps,
        "metrics": _metrics(detail.row, steps),
    }


def control_view(text: str) -> dict[str, Any]:
    """What people have asked of an execution, without the outputs that they pinned."""
    control: Any = decode(text)
    return {
        "breakpoints": control.get("breakpoints", []),
        "pins": sorted(control.get("pins", ())),
        "only": control.get("only"),
        "budget": control.get("budget"),
        "pause": control.get("pause"),
    }


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
