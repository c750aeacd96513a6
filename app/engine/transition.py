"""One transition: everything that one commit says about one execution, ready to be written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import orjson

from app.domain.budgets import NOTHING_SPENT, Spent
from app.domain.changes import ApprovalChange, Changes, EndedAttempt, Ending, Event
from app.domain.compiled import CompiledStep, CompiledWorkflow
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
from app.engine.rows import (
    ApprovalRow,
    AttemptRow,
    EndRow,
    ExecutionRow,
    FailureHandler,
    MailMark,
    OutgoingMail,
    StepRow,
    UsageRow,
)

EVENT_BYTES = 300
"""About the size of an event on its way to the database."""


class Transition(NamedTuple):
    """The execution's row with the fence before it, and the rows that go with them.

    `end` is there exactly when `row.ends`. `usage` is what was used since the transition before.
    """

    row: ExecutionRow
    steps: Sequence[StepRow] = ()
    attempts: Sequence[AttemptRow] = ()
    events: Sequence[Event] = ()
    usage: UsageRow | None = None
    end: EndRow | None = None
    mail: Sequence[MailMark] = ()
    approvals: Sequence[ApprovalRow] = ()
    outgoing: Sequence[OutgoingMail] = ()
    handler: FailureHandler | None = None

    def bytes(self) -> int:
        """About how much there is to send."""
        size = len(self.row.agent_results_text or "") + EVENT_BYTES * len(self.events)
        for step in self.steps:
            size += len(step.input_text or "") + len(step.output_text or "")
        return size


class Fence(NamedTuple):
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
    control_text: str | None,
    new_id: Callable[[str], str],
) -> Transition:
    """Freeze what changed into rows; the snapshot may go on changing."""
    execution_id, ending = fence.execution_id, changes.ending
    failure = None if ending is None else ending.failure
    orphans = [_cancel_child(execution_id, child, new_id) for child in changes.orphans]
    return Transition(
        _execution_row(fence, write_no, workflow, snapshot, changes, now, release, control_text),
        steps=[_step_row(execution_id, workflow.step(path), path, state) for path, state in changes.steps.items()],
        attempts=[_attempt_row(execution_id, attempt) for attempt in changes.attempts],
        events=changes.events,
        usage=None if changes.spent is NOTHING_SPENT else _usage_row(execution_id, changes.spent),
        end=None if ending is None else EndRow(execution_id, new_id("audit"), [mail.receiver for mail in orphans]),
        mail=_mail_marks(execution_id, changes) if changes.read or changes.used else (),
        approvals=_approval_rows(execution_id, changes, snapshot) if changes.approvals else (),
        outgoing=orphans,
        handler=None if failure is None else _handler(workflow, snapshot, ending, new_id),
    )


def _execution_row(
    fence: Fence,
    write_no: int,
    workflow: CompiledWorkflow,
    snapshot: Snapshot,
    changes: Changes,
    now: datetime,
    release: Release | None,
    control_text: str | None,
) -> ExecutionRow:
    ending = changes.ending
    failure = None if ending is None else ending.failure
    reason, message = _status_words(snapshot, ending)
    charged, settles = ending is not None, False
    for step in changes.steps.values():
        charged = charged or step.usage is not NO_USAGE
        settles = settles or step.status.settled
    used = snapshot.usage if charged else None
    return ExecutionRow(
        id=fence.execution_id,
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
        tokens_used=None if used is None else used.tokens,
        cost=None if used is None else used.cost,
        graph_text=workflow.graph_text if changes.began else None,
        agent_results_text=_agent_results_text(snapshot, changes),
        control_text=control_text,
        settles_step=settles,
        releases=release is not None or ending is not None,
        ready=release is not None and release.ready,
        ends=ending is not None,
        output_text=ending.output_text if ending is not None and ending.status is ExecutionStatus.COMPLETED else None,
        error=failure.message if failure else None,
        error_code=failure.code if failure else None,
        fingerprint=_fingerprint(snapshot, ending),
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
    if snapshot.control.stop is not None and snapshot.control.stop.reason is StopReason.CANCELLED:
        return "cancel_requested", snapshot.control.stop.detail or "Running steps are being cancelled"
    if pause is not None:
        if snapshot.status is ExecutionStatus.PAUSED:
            return pause.reason.value, pause.detail
        return "pause_requested", pause.detail or "The run pauses when the steps under way have ended"
    if snapshot.status is ExecutionStatus.WAITING:
        waits = [state.wait for _, state in snapshot.unsettled() if state.wait is not None]
        return f"waiting_for_{waits[0] if waits else 'approval'}", None
    return None, None


def _agent_results_text(snapshot: Snapshot, changes: Changes) -> str | None:
    if snapshot.agent_results and any(path in snapshot.agent_results for path in changes.steps):
        return encode(snapshot.agent_results)
    return None


def _step_row(execution_id: str, step: CompiledStep, path: str, state: StepState) -> StepRow:
    failure = state.failure
    return StepRow(
        execution_id=execution_id,
        path=path,
        number=step.number,
        name=step.title,
        type=step.definition.type,
        status=state.status,
        attempt=state.attempt,
        failures=state.failures,
        input_text=state.input_text,
        output_text=state.output_text,
        ports=sorted(state.ports) if state.ports else None,
        error=failure.message if failure else None,
        error_code=failure.code if failure else None,
        reason=state.wait or state.reason,
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


def _attempt_row(execution_id: str, attempt: EndedAttempt) -> AttemptRow:
    failure = attempt.failure
    return AttemptRow(
        execution_id,
        attempt.path,
        attempt.attempt,
        attempt.status,
        failure.message if failure else None,
        failure.code if failure else None,
        attempt.started_at,
        attempt.completed_at,
        attempt.trace,
    )


def _usage_row(execution_id: str, spent: Spent) -> UsageRow:
    return UsageRow(execution_id, spent.steps, spent.seconds, spent.tokens, spent.cost)


def _mail_marks(execution_id: str, changes: Changes) -> list[MailMark]:
    read = [MailMark(execution_id, mail_id) for mail_id in changes.read]
    return read + [MailMark(execution_id, mail_id, path) for mail_id, path in changes.used]


def _approval_rows(execution_id: str, changes: Changes, snapshot: Snapshot) -> list[ApprovalRow]:
    requested_by = str(snapshot.context["user_id"])
    return [_approval_row(execution_id, change, requested_by) for change in changes.approvals]


def _approval_row(execution_id: str, change: ApprovalChange, requested_by: str) -> ApprovalRow:
    approval = change.approval
    deciders = approval.deciders.model_dump(mode="json")
    return ApprovalRow(
        execution_id,
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


def _cancel_child(parent: str, child: str, new_id: Callable[[str], str]) -> OutgoingMail:
    reason = encode({"reason": "The execution that started it does not wait for it any more"})
    return OutgoingMail(parent, new_id("mail"), child, MailKind.CANCEL.value, reason)


def _fingerprint(snapshot: Snapshot, ending: Ending | None) -> str | None:
    if ending is None or ending.failure is None or ending.status is not ExecutionStatus.FAILED:
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
    if ending.status is not ExecutionStatus.FAILED or workflow_id == snapshot.context["workflow_id"]:
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
    return FailureHandler(snapshot.execution_id, new_id("exec"), new_id("audit"), workflow_id, encode(told))
