"""What a decision changes: the run's state, and the record of it.

`evolve` is the only code that moves an execution or a step from one state to another. It changes the snapshot in place
and notes in `Changes` what the recorder has to write. What concerns one step stands in `app.domain.step_evolution`.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never

from app.domain import events
from app.domain.changes import ApprovalChange, Changes, Ending, note
from app.domain.compiled import CompiledWorkflow
from app.domain.control import Stop, StopReason
from app.domain.decisions import (
    Begin,
    BeginStop,
    Cancel,
    CancelStep,
    CloseGate,
    Complete,
    CompleteStep,
    Decision,
    EditStep,
    EnterPause,
    Fail,
    FailStep,
    Hold,
    OpenGate,
    ParkStep,
    PassGate,
    PinStep,
    RecoverStep,
    RepeatStep,
    Resume,
    RetryStep,
    SkipStep,
    StartMap,
    StartStep,
    SuspendStep,
)
from app.domain.durations import LONGEST
from app.domain.errors import Failure
from app.domain.events import EventData, timestamp_text
from app.domain.planner import next_wake
from app.domain.snapshot import FirstFailure, Snapshot
from app.domain.states import ExecutionStatus, StepStatus, check_transition
from app.domain.step_evolution import StepEvolution, tell_approval
from app.domain.step_state import WaitReason
from app.domain.waits import ApprovalWait

GATE_SECONDS = timedelta(days=30).total_seconds()
_FREEZING = {WaitReason.SIGNAL, WaitReason.APPROVAL, WaitReason.CHILD}


def evolve(workflow: CompiledWorkflow, snapshot: Snapshot, decision: Decision, now: datetime, changes: Changes) -> None:
    """Apply one decision; raises IllegalTransition for one that the tables of `app.domain.states` forbid."""
    match decision:
        case (
            StartStep() | StartMap() | CompleteStep() | RepeatStep() | PinStep() | EditStep() | FailStep()
            | RetryStep() | RecoverStep() | SuspendStep() | ParkStep() | SkipStep() | CancelStep()
        ):  # fmt: skip
            StepEvolution(workflow, snapshot, now, changes).apply(decision)
        case _:
            _RunEvolution(workflow, snapshot, now, changes).apply(decision)


def suspend(snapshot: Snapshot, now: datetime, changes: Changes) -> None:
    """RUNNING → WAITING: nothing runs until the next wake-up; the run then holds neither memory nor lease.

    A run that was woken too early just goes on waiting.
    """
    if snapshot.status is not ExecutionStatus.RUNNING:
        return
    _move(snapshot, ExecutionStatus.WAITING)
    reasons = {state.wait.value for _, state in snapshot.unsettled() if state.wait is not None}
    wake_at = next_wake(snapshot)
    data = events.ExecutionWaiting(
        reason="+".join(sorted(reasons)) or "approval", wake_at=None if wake_at is None else timestamp_text(wake_at)
    )
    note(snapshot, now, changes, "execution_waiting", data)


class _RunEvolution:
    def __init__(self, workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime, changes: Changes) -> None:
        self._workflow = workflow
        self._snapshot = snapshot
        self._now = now
        self._changes = changes

    def apply(
        self,
        decision: Begin | Resume | Hold | EnterPause | BeginStop | OpenGate | PassGate | CloseGate
        | Complete | Fail | Cancel,
    ) -> None:  # fmt: skip
        match decision:
            case Begin():
                self._begin()
            case Resume():
                self._resume(decision)
            case Hold():
                self._hold(decision)
            case EnterPause():
                self._pause()
            case BeginStop():
                self._begin_stop(decision.stop)
            case OpenGate():
                self._open_gate(decision)
            case PassGate():
                self._pass_gate(decision)
            case CloseGate():
                self._close_gate(decision)
            case Complete():
                self._complete(decision)
            case Fail():
                self._fail(decision)
            case Cancel():
                self._cancel(decision.stop)
            case _:
                assert_never(decision)

    def _begin(self) -> None:
        _move(self._snapshot, ExecutionStatus.RUNNING)
        self._snapshot.control.start_at = None
        definition = self._workflow.definition
        self._snapshot.started_at = self._now
        self._changes.began = True
        if definition.timeout is not None:
            self._snapshot.deadline = self._after(definition.timeout)
        data = events.ExecutionStarted(
            deliverable_type=definition.deliverable_type,
            total_steps=len(self._workflow.steps),
            started_at=timestamp_text(self._now),
        )
        self._note("execution_started", data)
        StepEvolution(self._workflow, self._snapshot, self._now, self._changes).tell_reused()

    def _resume(self, decision: Resume) -> None:
        if self._snapshot.status is ExecutionStatus.PAUSED:
            self._thaw()
        began = self._snapshot.started_at is not None
        _move(self._snapshot, ExecutionStatus.RUNNING if began else ExecutionStatus.PENDING)
        self._note("execution_resumed", events.ExecutionResumed(reason=decision.reason))

    def _thaw(self) -> None:
        """The time spent PAUSED does not count against time limits."""
        snapshot, pause = self._snapshot, self._snapshot.control.pause
        snapshot.control.let_go_on()
        if pause is None or snapshot.started_at is None:
            return
        lost = self._now - (pause.since or self._now)
        snapshot.control.frozen += lost.total_seconds()
        self._changes.thawed = True
        if snapshot.deadline is not None:
            snapshot.deadline += lost
        for path, state in snapshot.unsettled():
            if state.wait in _FREEZING and state.wake_at is not None:
                state.wake_at += lost
                self._changes.steps[path] = state
                if isinstance(state.awaited, ApprovalWait):
                    tell_approval(self._changes, ApprovalChange(state.awaited, path, "PENDING", state.wake_at))
        gate = snapshot.control.gate
        if gate is not None and gate.deadline is not None and not gate.approved:
            snapshot.control.gate = gate = replace(gate, deadline=gate.deadline + lost)
            tell_approval(self._changes, ApprovalChange(gate.approval, None, "PENDING", gate.deadline))

    def _hold(self, decision: Hold) -> None:
        self._snapshot.control.pause = decision.pause
        if decision.used_up is not None:
            reached = decision.used_up
            data = events.BudgetExceeded(budget=reached.budget, limit=reached.limit, used=reached.used)
            self._note("budget_exceeded", data, decision.pause.at)

    def _pause(self) -> None:
        pause = self._snapshot.control.pause
        if pause is None:
            raise AssertionError("paused without a reason")
        _move(self._snapshot, ExecutionStatus.PAUSED)
        self._snapshot.control.pause = replace(pause, since=self._now)
        data = events.ExecutionPaused(reason=pause.reason.value, detail=pause.detail, requested_by=pause.user_id)
        self._note("execution_paused", data, pause.at)

    def _begin_stop(self, stop: Stop) -> None:
        self._snapshot.control.stop = stop
        if stop.reason is StopReason.CANCELLED:
            _move(self._snapshot, ExecutionStatus.CANCELLING)
            data = events.ExecutionCancelling(reason=stop.detail, requested_by=stop.user_id)
            self._note("execution_cancelling", data)

    def _open_gate(self, decision: OpenGate) -> None:
        rule = self._workflow.definition.approval
        seconds = GATE_SECONDS if rule is None or rule.deadline is None else rule.deadline
        gate = replace(decision.gate, deadline=self._after(seconds))
        self._snapshot.control.gate = gate
        tell_approval(self._changes, ApprovalChange(gate.approval, None, "PENDING", gate.deadline))
        data = events.ApprovalRequested(
            approval_id=gate.approval.approval_id,
            title=gate.approval.title,
            deadline=None if gate.deadline is None else timestamp_text(gate.deadline),
        )
        self._note("approval_requested", data)

    def _pass_gate(self, decision: PassGate) -> None:
        self._settle_gate("APPROVED", decision.letters)
        gate = self._snapshot.control.gate
        self._snapshot.control.gate = None if gate is None else replace(gate, approved=True)

    def _close_gate(self, decision: CloseGate) -> None:
        self._settle_gate(decision.status, decision.letters)
        self._snapshot.control.gate = None
        self._snapshot.first_failure = FirstFailure("", decision.failure)

    def _settle_gate(self, status: str, letters: tuple[str, ...]) -> None:
        gate = self._snapshot.control.gate
        if gate is None or gate.approved:
            return
        tell_approval(self._changes, ApprovalChange(gate.approval, None, status, gate.deadline))
        self._changes.used += [(letter, "") for letter in letters]
        self._snapshot.letters = [letter for letter in self._snapshot.letters if letter.id not in letters]

    def _complete(self, decision: Complete) -> None:
        _move(self._snapshot, ExecutionStatus.COMPLETED)
        self._snapshot.progress = 100
        successful = sum(1 for step in self._snapshot.steps.values() if step.status is StepStatus.COMPLETED)
        data = events.ExecutionCompleted(
            status="completed",
            risk_score=decision.risk_score,
            requires_approval=decision.requires_approval,
            total_steps=len(self._workflow.steps),
            successful_steps=successful,
            progress=100,
        )
        self._end("execution_completed", data, decision.output_text, None)

    def _fail(self, decision: Fail) -> None:
        self._settle_gate("CANCELLED", ())
        _move(self._snapshot, ExecutionStatus.FAILED)
        failure = decision.failure
        data = events.ExecutionFailed(
            error_message=failure.message, error_code=failure.code, progress=self._snapshot.progress
        )
        self._end("execution_failed", data, None, failure, decision.step_id or None)

    def _cancel(self, stop: Stop) -> None:
        self._settle_gate("CANCELLED", ())
        _move(self._snapshot, ExecutionStatus.CANCELLED)
        data = events.ExecutionCancelled(
            reason=stop.detail, requested_by=stop.user_id, progress=self._snapshot.progress
        )
        code = stop.code or ("execution_terminated" if stop.forced else "execution_cancelled")
        failure = Failure(code, stop.detail or "The execution was cancelled", retryable=False)
        self._end("execution_cancelled", data, None, failure)

    def _end(
        self, kind: str, data: EventData, output_text: str | None, failure: Failure | None, step_id: str | None = None
    ) -> None:
        self._snapshot.control.pause = None
        self._changes.ending = Ending(self._snapshot.status, output_text, failure, step_id)
        self._note(kind, data, step_id)

    def _note(self, kind: str, data: EventData, step_id: str | None = None) -> None:
        note(self._snapshot, self._now, self._changes, kind, data, step_id)

    def _after(self, seconds: float) -> datetime:
        return self._now + timedelta(seconds=min(max(seconds, 0.0), LONGEST))


def _move(snapshot: Snapshot, status: ExecutionStatus) -> None:
    check_transition(snapshot.status, status)
    snapshot.status = status
