"""What is told about runs, on the wire: explanations, differences, timelines, graphs, failure groups."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from app.api.v1.schemas.control import Reason
from app.api.v1.schemas.executions import Execution, execution_view
from app.api.v1.schemas.outlook import DivergenceOut, divergence_view
from app.db.queries.executions import Row
from app.domain.explain import Blocker, ExplainCode
from app.domain.rundiff import Patch, StepDiff
from app.domain.states import ExecutionStatus, StepStatus
from app.domain.timeline import Span
from app.services.comparison import RunDiff
from app.services.insight import Explained, FailureGroup, RunGraph, Timeline


class BlockerOut(BaseModel):
    """What must move first. A signal's id is its name, and its URL where to send it."""

    type: Literal["step", "execution", "approval", "signal"]
    id: str
    url: str


class ExplanationOut(BaseModel):
    """Why an execution is not moving, or that it is."""

    execution_id: str
    status: ExecutionStatus
    code: ExplainCode = Field(
        description="`running` and `deciding`: it moves. `ended`: it is over. Every other code says what holds it."
    )
    message: str
    blocker: BlockerOut | None
    moves_at: datetime | None = Field(description="When it moves by itself at the latest; null: not known.")
    details: dict[str, Any]


class PatchOperation(BaseModel):
    """An operation of RFC 6902."""

    op: Literal["add", "remove", "replace", "move", "copy", "test"]
    path: str
    value: Any = None


class RunInDiff(BaseModel):
    """One side of a comparison."""

    id: str
    workflow_id: str
    workflow_version: int
    status: ExecutionStatus
    error_code: str | None
    error: str | None
    created_at: datetime
    duration_seconds: float | None
    tokens_used: int
    cost: float


class StepDiffOut(BaseModel):
    """One step in both runs; a status is null where the run never reached it."""

    step_id: str
    left_status: StepStatus | None
    right_status: StepStatus | None
    input_patch: list[PatchOperation] | None
    output_patch: list[PatchOperation] | None
    duration_delta_ms: float | None
    tokens_delta: int
    cost_delta: float


class DiffOut(BaseModel):
    """From left to right: patches (RFC 6902) turn left into right, deltas are right minus left, null is no change."""

    left: RunInDiff
    right: RunInDiff
    same_input: bool
    input_patch: list[PatchOperation] | None
    output_patch: list[PatchOperation] | None
    definition_changes: list[PatchOperation] | None = Field(description="Between the versions the two ran.")
    first_divergence: DivergenceOut | None
    steps: list[StepDiffOut]
    duration_delta_seconds: float | None
    cost_delta: float
    tokens_delta: int
    cut: list[str] = Field(
        description="JSON pointers to patches of this answer that are cut: the difference is too large, or not for you."
    )


class SpanOut(BaseModel):
    """A part of the time of a step, or (`step_id` null) of the whole run; `to` is null while it lasts."""

    step_id: str | None
    kind: Literal["queue", "attempt", "backoff", "wait", "paused"]
    start: datetime = Field(alias="from")
    to: datetime | None
    attempt: int | None
    status: str | None
    reason: str | None


class TimelineOut(BaseModel):
    execution_id: str
    status: ExecutionStatus
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    spans: list[SpanOut]
    cut: bool = Field(description="There are more steps, attempts or waits than are shown.")


class NodeOut(BaseModel):
    id: str
    name: str
    type: str
    status: StepStatus
    step_number: int
    duration_ms: float | None
    attempts: int


class EdgeOut(BaseModel):
    """A need of a step; `taken` is null as long as its parent is not settled."""

    parent: str = Field(alias="from")
    to: str
    port: str | None
    taken: bool | None


class GraphOut(BaseModel):
    """The graph of a run in topological order."""

    execution_id: str
    status: ExecutionStatus
    nodes: list[NodeOut]
    edges: list[EdgeOut]


class FailureGroupOut(BaseModel):
    """Executions that failed in the same way: workflow, step, code, and message but for ids, numbers and values."""

    fingerprint: str
    count: int
    workflow_ids: list[str]
    step_id: str | None
    error_code: str | None
    sample_message: str | None
    first_seen: datetime
    last_seen: datetime
    latest_execution_id: str


class FailurePage(BaseModel):
    data: list[FailureGroupOut]
    next_cursor: str | None
    has_more: bool


class FailureGroupDetail(FailureGroupOut):
    """A group with its newest executions, at most 20."""

    executions: list[Execution]


class RetryFailures(BaseModel):
    """How to retry a failure group."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason = None
    dry_run: StrictBool = Field(default=False, description="Only count.")
    expected_count: StrictInt | None = Field(
        default=None, ge=0, description="Refuse (`count_changed`) if another number can be retried by now."
    )


def explanation_view(found: Explained) -> dict[str, Any]:
    explanation = found.explanation
    return {
        "execution_id": found.execution_id,
        "status": found.status,
        "code": explanation.code,
        "message": explanation.message,
        "blocker": None if explanation.blocker is None else _blocker(found.execution_id, explanation.blocker),
        "moves_at": explanation.moves_at,
        "details": explanation.details,
    }


def _blocker(execution_id: str, blocker: Blocker) -> dict[str, str]:
    own = f"/api/v1/executions/{execution_id}"
    named = quote(blocker.id, safe="")
    urls = {
        "step": f"{own}/steps/{named}",
        "execution": f"/api/v1/executions/{named}",
        "approval": f"/api/v1/approvals/{named}",
        "signal": f"{own}/signal",
    }
    return {"type": blocker.type, "id": blocker.id, "url": urls[blocker.type]}


def diff_view(diff: RunDiff) -> dict[str, Any]:
    """A difference, with the pointers of what is cut."""
    patches = {
        "/input_patch": diff.input_patch,
        "/output_patch": diff.output_patch,
        "/definition_changes": diff.definition_changes,
    }
    for index, step in enumerate(diff.steps):
        patches[f"/steps/{index}/input_patch"] = step.input_patch
        patches[f"/steps/{index}/output_patch"] = step.output_patch
    left, right = diff.left, diff.right
    return {
        "left": _run(left),
        "right": _run(right),
        "same_input": diff.same_input,
        "input_patch": _patch(diff.input_patch),
        "output_patch": _patch(diff.output_patch),
        "definition_changes": _patch(diff.definition_changes),
        "first_divergence": divergence_view(diff.first_divergence),
        "steps": [_step_diff(step) for step in diff.steps],
        "duration_delta_seconds": _delta(left["duration_seconds"], right["duration_seconds"]),
        "cost_delta": right["cost"] - left["cost"],
        "tokens_delta": right["tokens_used"] - left["tokens_used"],
        "cut": [pointer for pointer, patch in patches.items() if patch is not None and not patch.whole],
    }


def _run(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in RunInDiff.model_fields}


def _patch(patch: Patch | None) -> Sequence[Any] | None:
    return None if patch is None else patch.operations


def _delta(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else round(right - left, 6)


def _step_diff(step: StepDiff) -> dict[str, Any]:
    pair = step.pair
    return {
        "step_id": pair.step_id,
        "left_status": None if pair.left is None else pair.left.status,
        "right_status": None if pair.right is None else pair.right.status,
        "input_patch": _patch(step.input_patch),
        "output_patch": _patch(step.output_patch),
        "duration_delta_ms": step.duration_delta_ms,
        "tokens_delta": step.tokens_delta,
        "cost_delta": step.cost_delta,
    }


def timeline_view(found: Timeline) -> dict[str, Any]:
    row = found.row
    return {
        "execution_id": row["id"],
        "status": row["status"],
        "created_at": row["created_at"],
        "started_at": row["started_at"],
        "completed_at": row["completed_at"],
        "spans": [_span(span) for span in found.spans],
        "cut": not found.whole,
    }


def _span(span: Span) -> dict[str, Any]:
    return {
        "step_id": span.step_id,
        "kind": span.kind,
        "from": span.start,
        "to": span.end,
        "attempt": span.attempt,
        "status": span.status,
        "reason": span.reason,
    }


def graph_view(graph: RunGraph) -> dict[str, Any]:
    return {
        "execution_id": graph.row["id"],
        "status": graph.row["status"],
        "nodes": [{name: getattr(node, name) for name in NodeOut.model_fields} for node in graph.nodes],
        "edges": [
            {"from": edge.parent, "to": edge.child, "port": edge.port, "taken": edge.taken} for edge in graph.edges
        ],
    }


def failure_view(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in FailureGroupOut.model_fields}


def failure_group_view(found: FailureGroup) -> dict[str, Any]:
    return failure_view(found.group) | {"executions": [execution_view(row) for row in found.executions]}
