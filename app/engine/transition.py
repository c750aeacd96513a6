"""One transition: everything that one commit says about one execution, ready to be written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from app.domain.budgets import NOTHING_SPENT, Spent
from app.domain.changes import ApprovalChange, Changes, EndedAttempt, Ending, Event
from app.domain.compiled import CompiledWorkflow
from app.domain.control import StopReason
from app.domain.events import ExecutionQueued
from app.domain.fingerprint import fingerprint
from app.domain.jsontext import JSON, encode
from app.domain.mail import MailKind
from app.domain.snapshot import Snapshot
from app.domain.states import ExecutionStatus
from app.domain.step_state import StepState
from app.domain.steps import NO_USAGE
from app.domain.waits import wait_json
from app.engine.rows import ApprovalRow, AttemptRow, FailureHandler, MailMark, OutgoingMail, StepRow

EVENT_BYTES = 300
"""About the size of an event on its way to the database."""


@dataclass(frozen=True, slots=True)
class Transition:
    """The fence (owner, epoch, write_no), the execution's new values, and the rows that go with them.

    None in `started_at`, `deadline_at`, `tokens_used`, `cost`, `graph_text`, `agent_results_text` and `control_text`
    leaves the stored value. `releases` gives up ownership; `ready`, that the execution then wants to go on at once.
    `audit_id` is the id of the closing audit row, there exactly when `ending` is; `fingerprint` tells failures of one
    kind. `spent` is what was used since the transition before.
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
    mail: Sequence[MailMark]
    ready: bool = False
    control_text: str | None = None
    fingerprint: str | None = None
    approvals: Sequence[ApprovalRow] = ()
    outgoing: Sequence[OutgoingMail] = ()
    handler: FailureHandler | None = None
    spent: Spent = NOTHING_SPENT

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


@dataclass(frozen=True, slots=True)
class Release:
    """Giving up ownership until `wake_at` (None: until mail comes), or at once with `ready`."""

    wake_at: datetime | None
    ready: bool = False


def build_transition(
    fence: Fence,
    write_no: int,
    workflow: CompiledWorkflow,
    snapshot: Snapshot,
    changes: Changes,
    *,
    now: datetime,
    release: Release | None,
    read_mail: Sequence[str],
    control_text: str | None,
    new_id: Callable[[str], str],
) -> Transition:
    """Freeze what changed into rows; the snapshot may go on changing."""
    ending = changes.ending
    reason, message = _status_words(snapshot, ending)
    charged = ending is not None or any(step.usage != NO_USAGE for step in changes.steps.values())
    agents_changed = any(path in snapshot.agent_results for path in changes.steps)
    failed = ending is not None and ending.status is ExecutionStatus.FAILED
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
        deadline_at=snapshot.deadline if changes.began or changes.thawed else None,
        wake_at=None if release is None else release.wake_at,
        tokens_used=sum(step.usage.tokens for step in snapshot.steps.values()) if charged else None,
        cost=sum(step.usage.cost for step in snapshot.steps.values()) if charged else None,
        graph_text=workflow.graph_text if changes.began else None,
        agent_results_text=encode(snapshot.agent_results) if agents_changed else None,
        settles_step=any(step.status.settled for step in changes.steps.values()),
        releases=release is not None or ending is not None,
        ready=release is not None and release.ready,
        ending=ending,
        audit_id=None if ending is None else new_id("audit"),
        control_text=control_text,
        fingerprint=_fingerprint(snapshot, ending) if failed else None,
        steps=[_step_row(workflow, path, state) for path, state in changes.steps.items()],
        attempts=[_attempt_row(attempt) for attempt in changes.attempts],
        events=tuple(changes.events),
        mail=[*(MailMark(mail_id) for mail_id in read_mail), *(MailMark(*used) for used in changes.used)],
        approvals=[_approval_row(change, str(snapshot.context["user_id"])) for change in changes.approvals],
        outgoing=[_cancel_child(child, new_id) for child in changes.orphans],
        handler=_handler(workflow, snapshot, ending, new_id) if failed else None,
        spent=changes.spent,
    )


def queued_event_data(workflow_id: str, version: int) -> str:
    """The data of `execution_queued`, seq 1 of every execution, which acceptance itself writes."""
    return orjson.dumps(ExecutionQueued(workflow_id=workflow_id, workflow_version=version)).decode()


def event_data_text(event: Event) -> str:
    """The JSON of an event's data, as stored and as sent."""
    return orjson.dumps(event.data).decode()


def _status_words(snapshot: Snapshot, ending: Ending | None) -> tuple[str | None, str | None]:
    """Why the execution is in its status: a code and a sentence."""
    if ending is not None:
        return (None, None) if ending.failure is None else (ending.failure.code, ending.failure.message)
    pause = snapshot.control.pause
    if snapshot.stop is not None and snapshot.stop.reason is StopReason.CANCELLED:
        return "cancel_requested", snapshot.stop.detail or "Running steps are being cancelled"
    if pause is not None:
        if snapshot.status is ExecutionStatus.PAUSED:
            return pause.reason.value, pause.detail
        return "pause_requested", pause.detail or "The run pauses when the steps under way have ended"
    if snapshot.status is ExecutionStatus.WAITING:
        waits = [state.wait for _, state in snapshot.unsettled() if state.wait is not None]
        return f"waiting_for_{waits[0] if waits else 'approval'}", None
    return None, None


def _step_row(workflow: CompiledWorkflow, path: str, state: StepState) -> StepRow:
    step = workflow.step(path)
    return StepRow(
        path=path,
        number=step.number,
        name=step.title,
        type=step.definition.type,
        status=state.status.value,
        attempt=state.attempt,
        failures=state.failures,
        input_text=state.input_text,
        output_text=state.output_text,
        ports=state.ports,
        error=state.failure.message if state.failure else None,
        error_code=state.failure.code if state.failure else None,
        reason=state.wait.value if state.wait else state.reason,
        wake_at=state.wake_at,
        started_at=state.started_at,
        attempt_started_at=state.attempt_started_at,
        completed_at=state.completed_at,
        execution_time_ms=state.execution_time_ms,
        tokens_used=state.usage.tokens,
        cost=state.usage.cost,
        awaits_text=None if state.awaited is None else encode(wait_json(state.awaited)),
        reused_from=state.reused_from,
        iteration=state.iteration,
        items=state.items,
        edited_by=state.edited_by,
    )


def _attempt_row(attempt: EndedAttempt) -> AttemptRow:
    return AttemptRow(
        path=attempt.path,
        attempt=attempt.attempt,
        status=attempt.status.value,
        error=attempt.failure.message if attempt.failure else None,
        error_code=attempt.failure.code if attempt.failure else None,
        started_at=attempt.started_at,
        completed_at=attempt.completed_at,
        trace=attempt.trace,
    )


def _approval_row(change: ApprovalChange, requested_by: str) -> ApprovalRow:
    approval = change.approval
    deciders = approval.deciders.model_dump(mode="json")
    return ApprovalRow(
        id=approval.approval_id,
        path=change.path,
        status=change.status,
        title=approval.title,
        message=approval.message,
        form_text=None if approval.form is None else encode(approval.form),
        deciders_text=encode(deciders | {"self_approval": approval.self_approval, "requested_by": requested_by}),
        quorum=approval.quorum,
        deadline_at=change.deadline,
    )


def _cancel_child(child: str, new_id: Callable[[str], str]) -> OutgoingMail:
    reason = encode({"reason": "The execution that started it does not wait for it any more"})
    return OutgoingMail(new_id("mail"), child, MailKind.CANCEL.value, reason)


def _fingerprint(snapshot: Snapshot, ending: Ending | None) -> str | None:
    if ending is None or ending.failure is None:
        return None
    workflow_id = str(snapshot.context["workflow_id"])
    return fingerprint(workflow_id, ending.step_id, ending.failure.code, ending.failure.message)


def _handler(
    workflow: CompiledWorkflow, snapshot: Snapshot, ending: Ending | None, new_id: Callable[[str], str]
) -> FailureHandler | None:
    """A failure of the workflow that handles its own failures starts nothing: it could go on for ever."""
    workflow_id = workflow.definition.on_error
    if workflow_id is None or ending is None or ending.failure is None:
        return None
    if workflow_id == snapshot.context["workflow_id"]:
        return None
    told: JSON = {
        "execution_id": snapshot.execution_id,
        "workflow_id": snapshot.context["workflow_id"],
        "workflow_name": workflow.definition.name,
        "step_id": ending.step_id,
        "error": ending.failure.message,
        "error_code": ending.failure.code,
        "input": snapshot.input,
    }
    return FailureHandler(new_id("exec"), new_id("audit"), workflow_id, encode(told))
