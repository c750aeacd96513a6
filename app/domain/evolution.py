"""What a decision changes: the run's state, and the record of it.

`evolve` is the only code that moves an execution or a step from one state to another. It changes the snapshot in place
and notes in `Changes` what the recorder has to write: changed steps, ended attempts, events in order.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, assert_never

from app.domain import events
from app.domain.compiled import CompiledStep, CompiledWorkflow
from app.domain.decisions import (
    Begin,
    BeginStop,
    Cancel,
    CancelStep,
    Complete,
    CompleteStep,
    Decision,
    Fail,
    FailStep,
    RecoverStep,
    Resume,
    RetryStep,
    SkipStep,
    StartStep,
    SuspendStep,
    WakeStep,
)
from app.domain.durations import LONGEST
from app.domain.errors import Failure
from app.domain.events import EventData, timestamp_text
from app.domain.planner import next_wake
from app.domain.snapshot import FirstFailure, Lost, Snapshot, StepState, StopReason, WaitReason
from app.domain.states import (
    AttemptStatus,
    ExecutionStatus,
    StepStatus,
    check_step_transition,
    check_transition,
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event as recorded; see `app.domain.events` for the types and their data."""

    seq: int
    type: str
    step_id: str | None
    timestamp: datetime
    progress: int
    data: EventData


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """One attempt as recorded when it ended."""

    step_id: str
    attempt: int
    status: AttemptStatus
    failure: Failure | None
    started_at: datetime | None
    completed_at: datetime


@dataclass(frozen=True, slots=True)
class Ending:
    """How the run ended: exactly one of output and failure has a meaning, by the status."""

    status: ExecutionStatus
    output_text: str | None
    failure: Failure | None


@dataclass(slots=True)
class Changes:
    """What one transition adds to the record, in the order it happened."""

    steps: dict[str, StepState] = field(default_factory=dict)
    attempts: list[EndedAttempt] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    starts: list[StartStep] = field(default_factory=list)
    ending: Ending | None = None
    began: bool = False


def evolve(workflow: CompiledWorkflow, snapshot: Snapshot, decision: Decision, now: datetime, changes: Changes) -> None:
    """Apply one decision; raises IllegalTransition for one that the tables of `app.domain.states` forbid."""
    evolution = _Evolution(workflow, snapshot, now, changes)
    match decision:
        case Begin():
            evolution.begin()
        case Resume():
            evolution.resume()
        case BeginStop():
            evolution.begin_stop(decision)
        case StartStep():
            evolution.start_step(decision)
        case CompleteStep():
            evolution.complete_step(decision)
        case WakeStep():
            evolution.wake_step(decision)
        case FailStep():
            evolution.fail_step(decision)
        case RetryStep():
            evolution.retry_step(decision)
        case RecoverStep():
            evolution.recover_step(decision)
        case SuspendStep():
            evolution.suspend_step(decision)
        case SkipStep():
            evolution.skip_step(decision)
        case CancelStep():
            evolution.cancel_step(decision)
        case Complete():
            evolution.complete(decision)
        case Fail():
            evolution.fail(decision)
        case Cancel():
            evolution.cancel(decision)
        case _:
            assert_never(decision)


def suspend(snapshot: Snapshot, now: datetime, changes: Changes) -> None:
    """RUNNING → WAITING: nothing runs until the next wake-up; the run then holds neither memory nor lease.

    A run that was woken too early just goes on waiting.
    """
    if snapshot.status is ExecutionStatus.WAITING:
        return
    check_transition(snapshot.status, ExecutionStatus.WAITING)
    snapshot.status = ExecutionStatus.WAITING
    reasons = {step.wait.value for step in snapshot.steps.values() if step.wait is not None}
    wake_at = next_wake(snapshot)
    data = events.ExecutionWaiting(
        reason="+".join(sorted(reasons)), wake_at=None if wake_at is None else timestamp_text(wake_at)
    )
    note(snapshot, now, changes, "execution_waiting", data)


def note(
    snapshot: Snapshot, now: datetime, changes: Changes, kind: str, data: EventData, step_id: str | None = None
) -> None:
    """Add an event with the next seq."""
    changes.events.append(Event(snapshot.next_seq, kind, step_id, now, snapshot.progress, data))
    snapshot.next_seq += 1


@dataclass(frozen=True, slots=True)
class _Evolution:
    workflow: CompiledWorkflow
    snapshot: Snapshot
    now: datetime
    changes: Changes

    def begin(self) -> None:
        self._move(ExecutionStatus.RUNNING)
        definition = self.workflow.definition
        self.snapshot.started_at = self.now
        self.changes.began = True
        if definition.timeout is not None:
            self.snapshot.deadline = self.now + timedelta(seconds=definition.timeout)
        data = events.ExecutionStarted(
            deliverable_type=definition.deliverable_type,
            total_steps=len(self.workflow.steps),
            started_at=timestamp_text(self.now),
        )
        self._note("execution_started", data)

    def resume(self) -> None:
        self._move(ExecutionStatus.RUNNING)
        self._note("execution_resumed", events.ExecutionResumed(reason="due"))

    def begin_stop(self, decision: BeginStop) -> None:
        self.snapshot.stop = decision.stop
        if decision.stop.reason is StopReason.CANCELLED:
            self._move(ExecutionStatus.CANCELLING)
            data = events.ExecutionCancelling(reason=decision.stop.detail, requested_by=decision.stop.user_id)
            self._note("execution_cancelling", data)

    def start_step(self, decision: StartStep) -> None:
        step, state = self._step(decision.step_id, StepStatus.RUNNING)
        first = state.started_at is None
        state.attempt += 1
        state.input_text = decision.config_text
        state.attempt_started_at = self.now
        state.wait = state.wake_at = state.failure = None
        self.changes.starts.append(decision)
        if first:
            state.started_at = self.now
            data = events.StepStarted(step_number=step.number, step_name=step.definition.title, function=step.function)
            self._note("step_started", data, step.id)

    def complete_step(self, decision: CompleteStep) -> None:
        step, state = self._step(decision.step_id, StepStatus.COMPLETED)
        result = decision.result
        state.output, state.output_text, state.ports = result.output, result.output_text, result.ports
        state.usage, state.failure = result.usage, None
        if result.agent_result is not None:
            self.snapshot.agent_results[step.id] = result.agent_result
        self._end_attempt(step.id, state, AttemptStatus.COMPLETED, None)
        self._settled(step, state, "completed", None)

    def wake_step(self, decision: WakeStep) -> None:
        step, state = self._step(decision.step_id, StepStatus.COMPLETED)
        state.wait = state.wake_at = None
        self._end_attempt(step.id, state, AttemptStatus.COMPLETED, None)
        self._settled(step, state, "completed", None)

    def fail_step(self, decision: FailStep) -> None:
        step, state = self._step(decision.step_id, StepStatus.FAILED)
        state.failure = decision.failure
        state.wait = state.wake_at = None
        if isinstance(state.outcome, Lost):
            self._end_attempt(step.id, state, AttemptStatus.LOST, decision.failure)
        elif state.outcome is not None:
            state.failures += 1
            self._end_attempt(step.id, state, AttemptStatus.FAILED, decision.failure)
        if decision.stops_run and self.snapshot.first_failure is None:
            self.snapshot.first_failure = FirstFailure(step.id, decision.failure)
        self._settled(step, state, "failed", decision.failure.message)

    def retry_step(self, decision: RetryStep) -> None:
        step, state = self._step(decision.step_id, StepStatus.WAITING)
        state.failures += 1
        state.failure, state.wait = decision.failure, WaitReason.RETRY
        state.wake_at = self._after(decision.delay)
        self._end_attempt(step.id, state, AttemptStatus.FAILED, decision.failure)
        self._retrying(step, state, decision.delay, decision.failure.message)

    def recover_step(self, decision: RecoverStep) -> None:
        step, state = self._step(decision.step_id, StepStatus.WAITING)
        state.wait, state.wake_at = WaitReason.RETRY, self.now
        self._end_attempt(step.id, state, AttemptStatus.LOST, None)
        self._retrying(step, state, 0.0, "The worker was lost during this step; it starts again")

    def suspend_step(self, decision: SuspendStep) -> None:
        step, state = self._step(decision.step_id, StepStatus.WAITING)
        state.output, state.output_text = decision.sleep.output, decision.sleep.output_text
        state.outcome = state.outcome_at = None
        state.wait = WaitReason.DELAY
        state.wake_at = self._after(decision.sleep.seconds)
        data = events.StepWaiting(
            step_number=step.number,
            step_name=step.definition.title,
            reason=WaitReason.DELAY.value,
            wake_at=timestamp_text(state.wake_at),
        )
        self._note("step_waiting", data, step.id)

    def skip_step(self, decision: SkipStep) -> None:
        step, state = self._step(decision.step_id, StepStatus.SKIPPED)
        state.skip_reason = decision.reason
        state.completed_at = self.now
        self._advance()
        data = events.StepSkipped(
            step_number=step.number,
            step_name=step.definition.title,
            reason=decision.reason,
            progress=self.snapshot.progress,
        )
        self._note("step_skipped", data, step.id)

    def cancel_step(self, decision: CancelStep) -> None:
        step, state = self._step(decision.step_id, StepStatus.CANCELLED)
        if state.wait is not WaitReason.RETRY:
            self._end_attempt(step.id, state, AttemptStatus.CANCELLED, None)
        state.wait = state.wake_at = None
        state.output = state.output_text = None
        self._settled(step, state, "cancelled", None)

    def complete(self, decision: Complete) -> None:
        self._move(ExecutionStatus.COMPLETED)
        self.snapshot.progress = 100
        successful = sum(1 for step in self.snapshot.steps.values() if step.status is StepStatus.COMPLETED)
        data = events.ExecutionCompleted(
            status="completed",
            risk_score=decision.risk_score,
            requires_approval=decision.requires_approval,
            total_steps=len(self.workflow.steps),
            successful_steps=successful,
            progress=100,
        )
        self._end("execution_completed", data, decision.output_text, None)

    def fail(self, decision: Fail) -> None:
        self._move(ExecutionStatus.FAILED)
        failure = decision.failure
        data = events.ExecutionFailed(
            error_message=failure.message, error_code=failure.code, progress=self.snapshot.progress
        )
        self._end("execution_failed", data, None, failure, decision.step_id)

    def cancel(self, decision: Cancel) -> None:
        self._move(ExecutionStatus.CANCELLED)
        stop = decision.stop
        data = events.ExecutionCancelled(reason=stop.detail, requested_by=stop.user_id, progress=self.snapshot.progress)
        failure = Failure("execution_cancelled", stop.detail or "The execution was cancelled", retryable=False)
        self._end("execution_cancelled", data, None, failure)

    def _move(self, status: ExecutionStatus) -> None:
        check_transition(self.snapshot.status, status)
        self.snapshot.status = status

    def _step(self, step_id: str, status: StepStatus) -> tuple[CompiledStep, StepState]:
        state = self.snapshot.steps[step_id]
        check_step_transition(state.status, status)
        state.status = status
        self.changes.steps[step_id] = state
        return self.workflow.by_id[step_id], state

    def _end_attempt(self, step_id: str, state: StepState, status: AttemptStatus, failure: Failure | None) -> None:
        ended = state.outcome_at or self.now
        started = state.attempt_started_at
        if started is not None:
            ended = max(ended, started)
            state.execution_time_ms = round((ended - started).total_seconds() * 1000, 3)
        state.outcome = state.outcome_at = None
        self.changes.attempts.append(EndedAttempt(step_id, state.attempt, status, failure, started, ended))

    def _settled(
        self,
        step: CompiledStep,
        state: StepState,
        status: Literal["completed", "failed", "cancelled"],
        error_message: str | None,
    ) -> None:
        state.completed_at = self.now
        self._advance()
        data = events.StepEnded(
            step_number=step.number,
            step_name=step.definition.title,
            status=status,
            execution_time_ms=state.execution_time_ms or 0.0,
            error_message=error_message,
            progress=self.snapshot.progress,
        )
        self._note(f"step_{status}", data, step.id)

    def _retrying(self, step: CompiledStep, state: StepState, delay: float, message: str) -> None:
        data = events.StepRetrying(
            step_number=step.number,
            step_name=step.definition.title,
            attempt=state.attempt + 1,
            delay_ms=round(delay * 1000),
            error_message=message,
        )
        self._note("step_retrying", data, step.id)

    def _advance(self) -> None:
        reached = self.snapshot.counted * 100 // len(self.workflow.steps)
        self.snapshot.progress = max(self.snapshot.progress, reached)

    def _end(
        self,
        kind: str,
        data: EventData,
        output_text: str | None,
        failure: Failure | None,
        step_id: str | None = None,
    ) -> None:
        self.changes.ending = Ending(self.snapshot.status, output_text, failure)
        self._note(kind, data, step_id)

    def _note(self, kind: str, data: EventData, step_id: str | None = None) -> None:
        note(self.snapshot, self.now, self.changes, kind, data, step_id)

    def _after(self, seconds: float) -> datetime:
        return self.now + timedelta(seconds=min(max(seconds, 0.0), LONGEST))
