"""The planner's phases for what has ended: attempts that reported, and waits that are over."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from app.domain.compiled import CompiledStep, CompiledWorkflow
from app.domain.decisions import (
    CancelStep,
    CompleteStep,
    Decision,
    FailStep,
    ParkStep,
    RecoverStep,
    RepeatStep,
    RetryStep,
    SuspendStep,
)
from app.domain.errors import Failure, StepError, failure_of
from app.domain.jsontext import JSON, json_text
from app.domain.retry import decide_retry
from app.domain.snapshot import Snapshot, split_path
from app.domain.starting import attempt, bars_others, stops_run
from app.domain.states import StepStatus
from app.domain.step_state import Aborted, Failed, Lost, Parked, Slept, StepState, Succeeded, WaitReason
from app.domain.steps import Effect
from app.domain.waits import Met, Refused, expire, settle


def outcomes(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Sequence[Decision]:
    """What becomes of the attempts that have reported."""
    return [*_decided(workflow, snapshot)] if snapshot.reported else ()


def _decided(workflow: CompiledWorkflow, snapshot: Snapshot) -> Iterator[Decision]:
    for path in snapshot.reported:
        state = snapshot.state(path)
        step = workflow.step(path)
        match state.outcome:
            case None:
                continue
            case Succeeded():
                yield _completed(step, path, snapshot, state.outcome)
            case Slept() | Parked() if snapshot.control.stop is not None:
                yield CancelStep(path)
            case Slept():
                yield SuspendStep(path, state.outcome)
            case Parked():
                yield ParkStep(path, state.outcome)
            case Aborted():
                yield CancelStep(path)
            case Lost():
                yield _recovered(step, path, snapshot)
            case Failed():
                yield _failed(step, path, state, state.outcome, snapshot)


def awakening(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Sequence[Decision]:
    """What becomes of the steps that wait: their time has come, or their letters have."""
    control = snapshot.control
    if not (snapshot.frontier.waiting or snapshot.maps):
        return ()
    if control.stop is not None or control.held or not snapshot.may_run:
        return ()
    return [*_awakened(workflow, snapshot, now)]


def _awakened(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Iterator[Decision]:
    for path, state in snapshot.unsettled():
        if state.status is not StepStatus.WAITING:
            continue
        decision = _woken(workflow.step(path), path, state, snapshot, now)
        if decision is not None:
            yield decision
            if snapshot.letters or bars_others(decision, snapshot):
                return  # a letter is used once, and so is a start: who comes next looks at what is left


def wake_reason(snapshot: Snapshot, now: datetime) -> str | None:
    """Why a WAITING run has something to do: `due`, or the kind of letter that came; None if it has nothing."""
    for _, state in snapshot.unsettled():
        if state.awaited is not None and settle(state.awaited, snapshot.letters) is not None:
            return str(state.wait)
        if state.wake_at is not None and state.wake_at <= now:
            return "due"
    # What was carried over or settled without running may leave nothing to wait for.
    return None if snapshot.unsettled() or snapshot.control.gate else "due"


def _woken(step: CompiledStep, path: str, state: StepState, snapshot: Snapshot, now: datetime) -> Decision | None:
    due = state.wake_at is not None and state.wake_at <= now
    if state.awaited is None:
        if not due:
            return None
        if state.wait is WaitReason.DELAY:
            return _completed(step, path, snapshot, Succeeded(state.output, state.output_text or "null"))
        return attempt(step, path, snapshot, now)
    found = settle(state.awaited, snapshot.letters)
    if found is None and due:
        found = expire(state.awaited)
    match found:
        case Met():
            return _met(step, path, found, snapshot)
        case Refused():
            return _refused(step, path, state, found)
        case None:
            return None


def _met(step: CompiledStep, path: str, met: Met, snapshot: Snapshot) -> Decision:
    try:
        text = json_text(met.output, f"What step '{step.id}' waited for")
    except StepError as error:
        return FailStep(path, failure_of(error), stops_run(step, path), met.letters)
    return _completed(step, path, snapshot, Succeeded(met.output, text, met.ports, met.usage), met.letters)


def _refused(step: CompiledStep, path: str, state: StepState, refused: Refused) -> Decision:
    decision = decide_retry(step.retry, refused.failure, state.failures + 1, 1.0)  # no jitter was drawn: all of it
    if decision.delay is None:
        return FailStep(path, refused.failure, stops_run(step, path), refused.letters)
    return RetryStep(path, refused.failure, decision.delay, refused.letters)


def _completed(
    step: CompiledStep, path: str, snapshot: Snapshot, result: Succeeded, letters: tuple[str, ...] = ()
) -> Decision:
    """The step completes, or goes round once more."""
    repeat = step.definition.repeat
    if repeat is None or step.until is None or snapshot.control.stop is not None:
        return CompleteStep(path, result, letters)
    iteration = snapshot.state(path).iteration

    def lookup(name: str) -> JSON:
        match name:
            case "output":
                return result.output
            case "index":
                return iteration
            case _:
                return snapshot.lookup(name)

    try:
        if step.until.truth(lookup):
            return CompleteStep(path, result, letters)
    except StepError as error:
        return FailStep(path, failure_of(error), stops_run(step, path), letters)
    if iteration + 1 < repeat.max:
        return RepeatStep(path, result, repeat.interval, letters)
    if repeat.on_exhausted == "continue":
        return CompleteStep(path, result, letters)
    message = f"Step '{step.id}' was run {repeat.max} times, and its `until` was never true"
    return FailStep(path, Failure("repeat_exhausted", message, retryable=False), stops_run(step, path), letters)


def _recovered(step: CompiledStep, path: str, snapshot: Snapshot) -> Decision:
    if snapshot.control.stop is not None:
        return CancelStep(path)
    if step.effect is Effect.ONCE:
        message = "The worker was lost during this step, and whether its effect happened is unknown; it is not repeated"
        return FailStep(path, Failure("outcome_unknown", message, retryable=False), stops_run(step, path))
    return RecoverStep(path)


def _failed(step: CompiledStep, path: str, state: StepState, outcome: Failed, snapshot: Snapshot) -> Decision:
    if snapshot.control.stop is not None:
        return FailStep(path, outcome.failure, stops_run(step, path))
    decision = decide_retry(step.retry, outcome.failure, state.failures + 1, outcome.jitter)
    if decision.delay is None or _map_failed(path, snapshot):
        return FailStep(path, outcome.failure, stops_run(step, path))
    return RetryStep(path, outcome.failure, decision.delay)


def _map_failed(path: str, snapshot: Snapshot) -> bool:
    """Another item has failed the step already: trying this one again would be for nothing."""
    step_id, index = split_path(path)
    return index is not None and snapshot.maps[step_id].failure is not None
