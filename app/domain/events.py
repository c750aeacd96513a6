"""The typed stream events: the one ordered log of an execution.

`data` has exactly the keys of its type, null where there is nothing. Status words in `data` are lower case.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict


class ExecutionQueued(TypedDict):
    workflow_id: str
    workflow_version: int


class ExecutionStarted(TypedDict):
    deliverable_type: str | None
    total_steps: int
    started_at: str


class ExecutionWaiting(TypedDict):
    reason: str
    wake_at: str | None


class ExecutionResumed(TypedDict):
    reason: str


class ExecutionPaused(TypedDict):
    reason: str
    detail: str | None
    requested_by: str | None


class ExecutionCancelling(TypedDict):
    reason: str | None
    requested_by: str | None


class ExecutionCompleted(TypedDict):
    status: Literal["completed"]
    risk_score: float | None
    requires_approval: bool
    total_steps: int
    successful_steps: int
    progress: int


class ExecutionFailed(TypedDict):
    error_message: str
    error_code: str
    progress: int


class ExecutionCancelled(TypedDict):
    reason: str | None
    requested_by: str | None
    progress: int


class StepStarted(TypedDict):
    step_number: int
    step_name: str
    function: str


class StepEnded(TypedDict):
    step_number: int
    step_name: str
    status: Literal["completed", "failed", "cancelled"]
    execution_time_ms: float
    error_message: str | None
    progress: int


class StepRetrying(TypedDict):
    step_number: int
    step_name: str
    attempt: int
    delay_ms: int
    error_message: str


class StepSkipped(TypedDict):
    step_number: int
    step_name: str
    reason: str
    progress: int


class StepWaiting(TypedDict):
    step_number: int
    step_name: str
    reason: str
    wake_at: str | None


class StepReused(TypedDict):
    step_number: int
    step_name: str
    reused_from: str
    progress: int


class StepPinned(TypedDict):
    step_number: int
    step_name: str
    progress: int


class StepEdited(TypedDict):
    step_number: int
    step_name: str
    edited_by: str | None


class SignalReceived(TypedDict):
    name: str
    signal_id: str
    sent_by: str | None


class ApprovalRequested(TypedDict):
    approval_id: str
    title: str
    deadline: str | None


class ApprovalDecided(TypedDict):
    approval_id: str
    decision: Literal["approve", "reject"]
    decided_by: str | None
    comment: str | None


class BudgetExceeded(TypedDict):
    budget: str
    limit: float
    used: float


class StepProgress(TypedDict):
    fraction: float
    message: str


class StepLog(TypedDict):
    level: Literal["debug", "info", "warning", "error"]
    message: str


class TokenDelta(TypedDict):
    text: str


class ToolCall(TypedDict):
    name: str
    arguments: Any


EventData: TypeAlias = (
    ExecutionQueued
    | ExecutionStarted
    | ExecutionWaiting
    | ExecutionResumed
    | ExecutionPaused
    | ExecutionCancelling
    | ExecutionCompleted
    | ExecutionFailed
    | ExecutionCancelled
    | StepStarted
    | StepEnded
    | StepRetrying
    | StepSkipped
    | StepWaiting
    | StepReused
    | StepPinned
    | StepEdited
    | SignalReceived
    | ApprovalRequested
    | ApprovalDecided
    | BudgetExceeded
    | StepProgress
    | StepLog
    | TokenDelta
    | ToolCall
)

TERMINAL_TYPES = frozenset({"execution_completed", "execution_failed", "execution_cancelled"})


class Envelope(BaseModel):
    """What every event carries: `seq` is 1, 2, 3 … per execution without gap, `progress` never goes backwards."""

    model_config = ConfigDict(extra="forbid")

    seq: int = Field(ge=1)
    execution_id: str
    step_id: str | None
    timestamp: datetime
    progress: int = Field(ge=0, le=100)


class ExecutionQueuedEvent(Envelope):
    type: Literal["execution_queued"]
    data: ExecutionQueued


class ExecutionStartedEvent(Envelope):
    type: Literal["execution_started"]
    data: ExecutionStarted


class ExecutionWaitingEvent(Envelope):
    type: Literal["execution_waiting"]
    data: ExecutionWaiting


class ExecutionResumedEvent(Envelope):
    type: Literal["execution_resumed"]
    data: ExecutionResumed


class ExecutionCancellingEvent(Envelope):
    type: Literal["execution_cancelling"]
    data: ExecutionCancelling


class ExecutionCompletedEvent(Envelope):
    type: Literal["execution_completed"]
    data: ExecutionCompleted


class ExecutionFailedEvent(Envelope):
    type: Literal["execution_failed"]
    data: ExecutionFailed


class ExecutionCancelledEvent(Envelope):
    type: Literal["execution_cancelled"]
    data: ExecutionCancelled


class StepStartedEvent(Envelope):
    type: Literal["step_started"]
    data: StepStarted


class StepEndedEvent(Envelope):
    type: Literal["step_completed", "step_failed", "step_cancelled"]
    data: StepEnded


class StepRetryingEvent(Envelope):
    type: Literal["step_retrying"]
    data: StepRetrying


class StepSkippedEvent(Envelope):
    type: Literal["step_skipped"]
    data: StepSkipped


class StepWaitingEvent(Envelope):
    type: Literal["step_waiting"]
    data: StepWaiting


class ExecutionPausedEvent(Envelope):
    type: Literal["execution_paused"]
    data: ExecutionPaused


class StepReusedEvent(Envelope):
    type: Literal["step_reused"]
    data: StepReused


class StepPinnedEvent(Envelope):
    type: Literal["step_pinned"]
    data: StepPinned


class StepEditedEvent(Envelope):
    type: Literal["step_edited"]
    data: StepEdited


class SignalReceivedEvent(Envelope):
    type: Literal["signal_received"]
    data: SignalReceived


class ApprovalRequestedEvent(Envelope):
    type: Literal["approval_requested"]
    data: ApprovalRequested


class ApprovalDecidedEvent(Envelope):
    type: Literal["approval_decided"]
    data: ApprovalDecided


class BudgetExceededEvent(Envelope):
    type: Literal["budget_exceeded"]
    data: BudgetExceeded


class StepProgressEvent(Envelope):
    type: Literal["step_progress"]
    data: StepProgress


class StepLogEvent(Envelope):
    type: Literal["step_log"]
    data: StepLog


class TokenDeltaEvent(Envelope):
    type: Literal["token_delta"]
    data: TokenDelta


class ToolCallEvent(Envelope):
    type: Literal["tool_call"]
    data: ToolCall


StreamEvent: TypeAlias = Annotated[
    ExecutionQueuedEvent
    | ExecutionStartedEvent
    | ExecutionWaitingEvent
    | ExecutionResumedEvent
    | ExecutionCancellingEvent
    | ExecutionCompletedEvent
    | ExecutionFailedEvent
    | ExecutionCancelledEvent
    | StepStartedEvent
    | StepEndedEvent
    | StepRetryingEvent
    | StepSkippedEvent
    | StepWaitingEvent
    | ExecutionPausedEvent
    | StepReusedEvent
    | StepPinnedEvent
    | StepEditedEvent
    | SignalReceivedEvent
    | ApprovalRequestedEvent
    | ApprovalDecidedEvent
    | BudgetExceededEvent
    | StepProgressEvent
    | StepLogEvent
    | TokenDeltaEvent
    | ToolCallEvent,
    Field(discriminator="type"),
]
"""Any event, told apart by `type`."""

STREAM_EVENT: TypeAdapter[StreamEvent] = TypeAdapter(StreamEvent)


def timestamp_text(moment: datetime) -> str:
    """RFC 3339 UTC with `Z` and microseconds, as everywhere on the wire."""
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
