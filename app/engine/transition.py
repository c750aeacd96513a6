"""One transition: everything that one commit says about one execution, ready to be written."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from app.domain.compiled import CompiledWorkflow
from app.domain.events import ExecutionQueued
from app.domain.evolution import Changes, Ending, Event
from app.domain.jsontext import encode
from app.domain.snapshot import Snapshot, StepState, StopReason
from app.domain.states import ExecutionStatus
from app.domain.steps import Usage

NOTHING_USED = Usage()
EVENT_BYTES = 300
"""About the size of an event on its way to the database."""


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step as it is to be stored; texts are JSON."""

    path: str
    number: int
    name: str
    type: str
    status: str
    attempt: int
    failures: int
    input_text: str | None
    output_text: str | None
    ports: str
    error: str | None
    error_code: str | None
    reason: str | None
    wake_at: datetime | None
    started_at: datetime | None
    attempt_started_at: datetime | None
    completed_at: datetime | None
    execution_time_ms: float | None
    tokens_used: int
    cost: float


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An ended attempt as it is to be stored."""

    path: str
    attempt: int
    status: str
    error: str | None
    error_code: str | None
    started_at: datetime | None
    completed_at: datetime


@dataclass(frozen=True, slots=True)
class Transition:
    """The fence (owner, epoch, write_no), the execution's new values, and the rows that go with them.

    None in `started_at`, `deadline_at`, `tokens_used`, `cost`, `graph_text` and `agent_results_text` leaves the stored
    value; `releases` gives up ownership. `audit_id` is the id of the closing audit row, there
    exactly when `ending` is.
    """

    execution_id: str
    org_id: str
    owner: str
    epoch: int
    write_no: int
    status: ExecutionStatus
    status_reason: str | None
    status_message: str | None
    progress: int
    next_seq: int
    recorded_at: datetime
    started_at: datetime | None
    deadline_at: datetime | None
    wake_at: datetime | None
    tokens_used: int | None
    cost: float | None
    graph_text: str | None
    agent_results_text: str | None
    settles_step: bool
    releases: bool
    ending: Ending | None
    audit_id: str | None
    steps: Sequence[StepRow]
    attempts: Sequence[AttemptRow]
    events: Sequence[Event]
    read_mail: Sequence[str]

    def bytes(self) -> int:
        """About how much there is to send."""
        texts = sum(len(step.input_text or "") + len(step.output_text or "") for step in self.steps)
        return texts + len(self.agent_results_text or "") + EVENT_BYTES * len(self.events)


@dataclass(frozen=True, slots=True)
class Fence:
    """Who writes: the owner, in its lease epoch."""

    execution_id: str
    org_id: str
    owner: str
    epoch: int


def build_transition(
    fence: Fence,
    write_no: int,
    workflow: CompiledWorkflow,
    snapshot: Snapshot,
    changes: Changes,
    *,
    now: datetime,
    wake_at: datetime | None,
    read_mail: Sequence[str],
    audit_id: str | None,
) -> Transition:
    """Freeze what changed into rows; the snapshot may go on changing. With `wake_at` ownership is given up."""
    reason, message = _status_words(snapshot, changes.ending)
    spent = changes.ending is not None or any(step.usage != NOTHING_USED for step in changes.steps.values())
    agents_changed = any(step_id in snapshot.agent_results for step_id in changes.steps)
    return Transition(
        execution_id=fence.execution_id,
        org_id=fence.org_id,
        owner=fence.owner,
        epoch=fence.epoch,
        write_no=write_no,
        status=snapshot.status,
        status_reason=reason,
        status_message=message,
        progress=snapshot.progress,
        next_seq=snapshot.next_seq,
        recorded_at=now,
        started_at=snapshot.started_at if changes.began else None,
        deadline_at=snapshot.deadline if changes.began else None,
        wake_at=wake_at,
        tokens_used=sum(step.usage.tokens for step in snapshot.steps.values()) if spent else None,
        cost=sum(step.usage.cost for step in snapshot.steps.values()) if spent else None,
        graph_text=workflow.graph_text if changes.began else None,
        agent_results_text=encode(snapshot.agent_results) if agents_changed else None,
        settles_step=any(step.status.settled for step in changes.steps.values()),
        releases=wake_at is not None or changes.ending is not None,
        ending=changes.ending,
        audit_id=audit_id,
        steps=[_step_row(workflow, step_id, state) for step_id, state in changes.steps.items()],
        attempts=[
            AttemptRow(
                path=attempt.step_id,
                attempt=attempt.attempt,
                status=attempt.status.value,
                error=attempt.failure.message if attempt.failure else None,
                error_code=attempt.failure.code if attempt.failure else None,
                started_at=attempt.started_at,
                completed_at=attempt.completed_at,
            )
            for attempt in changes.attempts
        ],
        events=tuple(changes.events),
        read_mail=tuple(read_mail),
    )


def queued_event_data(workflow_id: str, version: int) -> str:
    """The data of `execution_queued`, seq 1 of every execution, which acceptance itself writes."""
    return orjson.dumps(ExecutionQueued(workflow_id=workflow_id, workflow_version=version)).decode()


def event_data_text(event: Event) -> str:
    """The JSON of an event's data, as stored and as sent."""
    return orjson.dumps(event.data).decode()


def _status_words(snapshot: Snapshot, ending: Ending | None) -> tuple[str | None, str | None]:
    """Why the execution is in its status: a code and a sentence."""
    if ending is not None and ending.failure is not None:
        return ending.failure.code, ending.failure.message
    if snapshot.stop is not None and snapshot.stop.reason is StopReason.CANCELLED:
        return "cancel_requested", snapshot.stop.detail or "Running steps are being cancelled"
    if snapshot.status is ExecutionStatus.WAITING:
        waiting = next(step for step in snapshot.steps.values() if step.wake_at is not None)
        return f"waiting_for_{waiting.wait}", "Nothing runs until the time in wake_at"
    return None, None


def _step_row(workflow: CompiledWorkflow, step_id: str, state: StepState) -> StepRow:
    step = workflow.by_id[step_id]
    return StepRow(
        path=step_id,
        number=step.number,
        name=step.definition.title,
        type=step.definition.type,
        status=state.status.value,
        attempt=state.attempt,
        failures=state.failures,
        input_text=state.input_text,
        output_text=state.output_text,
        ports=",".join(sorted(state.ports)),
        error=state.failure.message if state.failure else None,
        error_code=state.failure.code if state.failure else None,
        reason=state.skip_reason or (state.wait.value if state.wait else None),
        wake_at=state.wake_at,
        started_at=state.started_at,
        attempt_started_at=state.attempt_started_at,
        completed_at=state.completed_at,
        execution_time_ms=state.execution_time_ms,
        tokens_used=state.usage.tokens,
        cost=state.usage.cost,
    )
