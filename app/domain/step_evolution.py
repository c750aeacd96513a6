"""What a decision about one step, or one item of a step with `for_each`, changes.

Of items the record has rows; as events only what failed, what is tried again, and how far the whole has come.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, assert_never

from app.domain import events
from app.domain.changes import ApprovalChange, Changes, EndedAttempt, note
from app.domain.compiled import CompiledStep, CompiledWorkflow
from app.domain.decisions import (
    CancelStep,
    CompleteStep,
    EditStep,
    FailStep,
    ParkStep,
    PinStep,
    RecoverStep,
    RepeatStep,
    RetryStep,
    SkipStep,
    StartMap,
    StartStep,
    SuspendStep,
)
from app.domain.durations import LONGEST
from app.domain.errors import Failure
from app.domain.events import EventData, timestamp_text
from app.domain.snapshot import FirstFailure, Snapshot, split_item
from app.domain.states import AttemptStatus, StepStatus, check_step_transition
from app.domain.step_state import Aborted, Failed, Lost, MapState, Parked, StepState, Succeeded, WaitReason
from app.domain.steps import NO_USAGE
from app.domain.waits import ApprovalWait, ChildWait, SignalWait

StepDecision: TypeAlias = (
    StartStep | StartMap | CompleteStep | RepeatStep | PinStep | EditStep | FailStep | RetryStep | RecoverStep
    | SuspendStep | ParkStep | SkipStep | CancelStep
)  # fmt: skip
Ended: TypeAlias = Literal["completed", "failed", "cancelled"]

TELLING = timedelta(milliseconds=100)
"""How far the items have come is told at most so often."""

_WAITS = {SignalWait: WaitReason.SIGNAL, ApprovalWait: WaitReason.APPROVAL, ChildWait: WaitReason.CHILD}
_APPROVAL_ENDS = {"approval_rejected": "REJECTED", "approval_expired": "EXPIRED"}


class StepEvolution:
    """Applies decisions about steps to a snapshot and notes them in `changes`."""

    def __init__(self, workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime, changes: Changes) -> None:
        self._workflow = workflow
        self._snapshot = snapshot
        self._now = now
        self._changes = changes

    def apply(self, decision: StepDecision) -> None:
        match decision:
            case StartStep():
                self._start(decision)
            case StartMap():
                self._start_map(decision)
            case CompleteStep():
                self._complete(decision)
            case RepeatStep():
                self._repeat(decision)
            case PinStep():
                self._pin(decision)
            case EditStep():
                self._edit(decision)
            case FailStep():
                self._fail(decision)
            case RetryStep():
                self._retry(decision)
            case RecoverStep():
                self._recover(decision)
            case SuspendStep():
                self._suspend(decision)
            case ParkStep():
                self._park(decision)
            case SkipStep():
                self._skip(decision)
            case CancelStep():
                self._cancel(decision)
            case _:
                assert_never(decision)

    def tell_reused(self) -> None:
        """What was carried over from an earlier run counts from the beginning."""
        for step in self._workflow.steps:
            state = self._snapshot.steps[step.id]
            if state.status.settled and state.reused_from is not None:
                self._tell_progress()
                data = events.StepReused(
                    step_number=step.number,
                    step_name=step.title,
                    reused_from=state.reused_from,
                    progress=self._snapshot.progress,
                )
                self._note("step_reused", data, step.id)

    def _start(self, decision: StartStep) -> None:
        step, state = self._move(decision.path, StepStatus.RUNNING)
        first = state.started_at is None
        state.attempt += 1
        state.input_text = decision.config_text
        state.attempt_started_at = self._now
        state.wait = state.wake_at = state.failure = None
        self._snapshot.starts += 1
        if self._snapshot.control.steps_left:
            self._snapshot.control.steps_left -= 1
        self._changes.starts.append(decision)
        self._changes.spend(steps=1)
        if first:
            state.started_at = self._now
            self._tell_started(step, decision.path)

    def _start_map(self, decision: StartMap) -> None:
        step, state = self._move(decision.path, StepStatus.RUNNING)
        state.started_at = state.attempt_started_at = self._now
        state.items = len(decision.values)
        items = self._snapshot.maps.setdefault(decision.path, MapState())
        items.values = decision.values
        items.began(0)
        self._tell_started(step, decision.path)

    def _tell_started(self, step: CompiledStep, path: str) -> None:
        if path == step.id:
            data = events.StepStarted(step_number=step.number, step_name=step.title, function=step.function)
            self._note("step_started", data, step.id)

    def _complete(self, decision: CompleteStep) -> None:
        step, state = self._move(decision.path, StepStatus.COMPLETED)
        self._end_wait(decision.path, state, "APPROVED" if "approved" in decision.result.ports else "REJECTED")
        self._take(state, decision.result, decision.path)
        self._use(decision.letters, decision.path)
        self._end_attempt(decision.path, state, AttemptStatus.COMPLETED, None)
        self._settled(step, decision.path, state, "completed", None)

    def _repeat(self, decision: RepeatStep) -> None:
        step, state = self._move(decision.path, StepStatus.WAITING)
        self._end_wait(decision.path, state, "APPROVED" if "approved" in decision.result.ports else "REJECTED")
        self._take(state, decision.result, decision.path)
        self._use(decision.letters, decision.path)
        self._end_attempt(decision.path, state, AttemptStatus.COMPLETED, None)
        state.iteration += 1
        state.failures = 0
        state.wait, state.wake_at = WaitReason.REPEAT, self._after(decision.delay)
        rounds = step.definition.repeat.max if step.definition.repeat is not None else 1
        message = f"Round {state.iteration} of at most {rounds} is done"
        self._note("step_progress", events.StepProgress(fraction=state.iteration / rounds, message=message), step.id)

    def _pin(self, decision: PinStep) -> None:
        step, state = self._move(decision.path, StepStatus.COMPLETED)
        self._take(state, decision.result, decision.path)
        state.completed_at = self._now
        self._advance(state)
        data = events.StepPinned(step_number=step.number, step_name=step.title, progress=self._snapshot.progress)
        self._note("step_pinned", data, step.id)

    def _edit(self, decision: EditStep) -> None:
        step, state = self._workflow.by_id[decision.path], self._snapshot.steps[decision.path]
        state.output, state.output_text = decision.output, decision.output_text
        state.ports = step.spec.ports_taken(step.definition.config, decision.output)
        state.edited_by = decision.user_id or "unknown"
        self._changes.steps[decision.path] = state
        data = events.StepEdited(step_number=step.number, step_name=step.title, edited_by=decision.user_id)
        self._note("step_edited", data, step.id)

    def _fail(self, decision: FailStep) -> None:
        step, state = self._move(decision.path, StepStatus.FAILED)
        state.failure = decision.failure
        self._use(decision.letters, decision.path)
        waited = state.awaited is not None
        self._refuse_wait(decision, state)
        if isinstance(state.outcome, Lost):
            self._end_attempt(decision.path, state, AttemptStatus.LOST, decision.failure)
        elif state.outcome is not None or waited or state.items is not None:
            state.failures += 1
            self._end_attempt(decision.path, state, AttemptStatus.FAILED, decision.failure)
        state.wait = state.wake_at = None
        if decision.stops_run and self._snapshot.first_failure is None:
            self._snapshot.first_failure = FirstFailure(step.id, decision.failure)
        self._settled(step, decision.path, state, "failed", decision.failure.message)

    def _retry(self, decision: RetryStep) -> None:
        step, state = self._move(decision.path, StepStatus.WAITING)
        state.failures += 1
        self._use(decision.letters, decision.path)
        self._refuse_wait(decision, state)
        state.failure, state.wait = decision.failure, WaitReason.RETRY
        state.wake_at = self._after(decision.delay)
        self._end_attempt(decision.path, state, AttemptStatus.FAILED, decision.failure)
        self._retrying(step, decision.path, state, decision.delay, decision.failure.message)

    def _recover(self, decision: RecoverStep) -> None:
        step, state = self._move(decision.path, StepStatus.WAITING)
        state.wait, state.wake_at = WaitReason.RETRY, self._now
        self._end_attempt(decision.path, state, AttemptStatus.LOST, None)
        message = "The worker was lost during this step; it starts again"
        self._retrying(step, decision.path, state, 0.0, message)

    def _suspend(self, decision: SuspendStep) -> None:
        step, state = self._move(decision.path, StepStatus.WAITING)
        state.output, state.output_text = decision.sleep.output, decision.sleep.output_text
        self._decided_on(decision.path, state)
        state.wait, state.wake_at = WaitReason.DELAY, self._after(decision.sleep.seconds)
        self._waiting(step, decision.path, state)

    def _park(self, decision: ParkStep) -> None:
        step, state = self._move(decision.path, StepStatus.WAITING)
        awaited, seconds = decision.parked.awaited, decision.parked.seconds
        self._decided_on(decision.path, state)
        state.awaited, state.wait = awaited, _WAITS[type(awaited)]
        state.wake_at = None if seconds is None else self._after(seconds)
        self._waiting(step, decision.path, state)
        if isinstance(awaited, ApprovalWait):
            tell_approval(self._changes, ApprovalChange(awaited, decision.path, "PENDING", state.wake_at))
            data = events.ApprovalRequested(
                approval_id=awaited.approval_id, title=awaited.title, deadline=_text(state.wake_at)
            )
            self._note("approval_requested", data, decision.path)

    def _skip(self, decision: SkipStep) -> None:
        step, state = self._move(decision.path, StepStatus.SKIPPED)
        state.reason = decision.reason
        state.completed_at = self._now
        self._advance(state)
        data = events.StepSkipped(
            step_number=step.number,
            step_name=step.title,
            reason=decision.reason,
            progress=self._snapshot.progress,
        )
        self._note("step_skipped", data, step.id)

    def _cancel(self, decision: CancelStep) -> None:
        step, state = self._move(decision.path, StepStatus.CANCELLED)
        if isinstance(state.outcome, Parked) and isinstance(state.outcome.awaited, ChildWait):
            self._changes.orphans.append(state.outcome.awaited.execution_id)
        self._end_wait(decision.path, state, "CANCELLED", give_up=True)
        if state.wait not in {WaitReason.RETRY, WaitReason.REPEAT}:
            self._end_attempt(decision.path, state, AttemptStatus.CANCELLED, None)
        state.wait = state.wake_at = None
        state.output = state.output_text = None
        self._settled(step, decision.path, state, "cancelled", None)

    def _move(self, path: str, status: StepStatus) -> tuple[CompiledStep, StepState]:
        state = self._state(path)
        check_step_transition(state.status, status)
        state.status = status
        self._changes.steps[path] = state
        step = self._workflow.step(path)
        if state is self._snapshot.steps[step.id]:
            self._snapshot.frontier.moved(self._workflow, step, state, self._snapshot.steps)
        return step, state

    def _state(self, path: str) -> StepState:
        """The state of a step, or of an item, which begins to exist when something is first decided about it."""
        state = self._snapshot.steps.get(path)
        if state is not None:
            return state
        step_id, index = split_item(path)
        items = self._snapshot.maps[step_id]
        if index not in items.active:
            items.active[index] = StepState()
            items.began(index)
        return items.active[index]

    def _take(self, state: StepState, result: Succeeded, path: str) -> None:
        state.output, state.output_text, state.ports = result.output, result.output_text, result.ports
        if result.usage is not NO_USAGE:
            state.usage += result.usage
        state.failure, state.reason = None, result.note
        state.wait = state.wake_at = None
        if result.agent_result is not None:
            self._snapshot.agent_results[path] = result.agent_result

    def _use(self, letters: tuple[str, ...], path: str) -> None:
        if letters:
            self._changes.used += [(letter, path) for letter in letters]
            self._snapshot.letters = [letter for letter in self._snapshot.letters if letter.id not in letters]

    def _refuse_wait(self, decision: FailStep | RetryStep, state: StepState) -> None:
        ended_as = _APPROVAL_ENDS.get(decision.failure.code, "CANCELLED")
        self._end_wait(decision.path, state, ended_as, give_up=not decision.letters)

    def _end_wait(self, path: str, state: StepState, approval: str, *, give_up: bool = False) -> None:
        match state.awaited:
            case ApprovalWait():
                tell_approval(self._changes, ApprovalChange(state.awaited, path, approval, state.wake_at))
            case ChildWait(execution_id=child) if give_up:
                self._changes.orphans.append(child)
        state.awaited = None

    def _decided_on(self, path: str, state: StepState) -> None:
        """The outcome has been decided on, though the attempt may go on waiting. What it used counts from now on."""
        if state.outcome_at is not None and state.attempt_started_at is not None:
            usage = state.outcome.usage if isinstance(state.outcome, Succeeded | Failed | Aborted) else NO_USAGE
            seconds = max((state.outcome_at - state.attempt_started_at).total_seconds(), 0.0)
            self._changes.spend(0, seconds, usage.tokens, usage.cost)
            if usage is not NO_USAGE and not isinstance(state.outcome, Succeeded):
                state.usage += usage
        state.outcome = state.outcome_at = None
        if path in self._snapshot.reported:
            self._snapshot.reported.remove(path)

    def _end_attempt(self, path: str, state: StepState, status: AttemptStatus, failure: Failure | None) -> None:
        ended = state.outcome_at or self._now
        started = state.attempt_started_at
        if started is not None:
            ended = max(ended, started)
            state.execution_time_ms = round((ended - started).total_seconds() * 1000, 3)
        trace = state.outcome.trace if isinstance(state.outcome, Failed) else None
        self._decided_on(path, state)
        if state.items is None:  # a step with items makes no attempt of its own
            ended_attempt = EndedAttempt(path, state.attempt, status, failure, started, ended, trace)
            self._changes.attempts.append(ended_attempt)

    def _settled(self, step: CompiledStep, path: str, state: StepState, status: Ended, message: str | None) -> None:
        state.completed_at = self._now
        if path == step.id:
            self._advance(state)
        else:
            self._settle_item(step, path, state, message)
        if path == step.id or status == "failed":
            data = events.StepEnded(
                step_number=step.number,
                step_name=step.title,
                status=status,
                execution_time_ms=state.execution_time_ms or 0.0,
                error_message=message,
                progress=self._snapshot.progress,
            )
            self._note(f"step_{status}", data, path)

    def _settle_item(self, step: CompiledStep, path: str, state: StepState, message: str | None) -> None:
        items, parent = self._snapshot.maps[step.id], self._snapshot.steps[step.id]
        index = split_item(path)[1]
        del items.active[index]
        items.results[index] = state.output_text if state.status is StepStatus.COMPLETED else None
        parent.usage += state.usage
        if state.failure is not None and items.failure is None and step.definition.on_item_error == "fail":
            items.failure = replace(state.failure, message=f"Item {index}: {message}", retryable=False)
        done, total = len(items.results), len(items.values)
        if done == total or items.told_at is None or self._now - items.told_at >= TELLING:
            items.told_at = self._now
            data = events.StepProgress(fraction=done / total, message=f"{done} of {total}")
            self._note("step_progress", data, step.id)

    def _waiting(self, step: CompiledStep, path: str, state: StepState) -> None:
        if path == step.id and state.wait is not None:
            data = events.StepWaiting(
                step_number=step.number,
                step_name=step.title,
                reason=state.wait.value,
                wake_at=_text(state.wake_at),
            )
            self._note("step_waiting", data, step.id)

    def _retrying(self, step: CompiledStep, path: str, state: StepState, delay: float, message: str) -> None:
        data = events.StepRetrying(
            step_number=step.number,
            step_name=step.title,
            attempt=state.attempt + 1,
            delay_ms=round(delay * 1000),
            error_message=message,
        )
        self._note("step_retrying", data, path)

    def _advance(self, state: StepState) -> None:
        """A step is settled."""
        if not state.cut_off:
            self._snapshot.counted += 1
            self._tell_progress()

    def _tell_progress(self) -> None:
        reached = self._snapshot.counted * 100 // len(self._workflow.steps)
        self._snapshot.progress = max(self._snapshot.progress, reached)

    def _note(self, kind: str, data: EventData, step_id: str) -> None:
        note(self._snapshot, self._now, self._changes, kind, data, step_id)

    def _after(self, seconds: float) -> datetime:
        return self._now + timedelta(seconds=min(max(seconds, 0.0), LONGEST))


def tell_approval(changes: Changes, change: ApprovalChange) -> None:
    """Note what has become of an approval; one that is asked for and settled in one go is written once."""
    others = [known for known in changes.approvals if known.approval.approval_id != change.approval.approval_id]
    changes.approvals = [*others, change]


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp_text(moment)
