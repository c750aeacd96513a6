"""What to do next with a run: a pure function from facts to decisions.

`plan` looks at the definition, the snapshot and the time, and answers with the decisions of the first phase that has
any: reported outcomes, then stopping, then steps that became ready, then the end. `app.domain.evolution` applies them;
the caller plans again until nothing is left to decide. Order within an answer is topological, so that two planners
given the same facts decide the same.
"""

from collections.abc import Iterator
from datetime import datetime

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
from app.domain.durations import format_duration
from app.domain.errors import Failure, StepError, failure_of
from app.domain.jsontext import JSON, NotJson, encode
from app.domain.retry import decide_retry
from app.domain.snapshot import (
    Aborted,
    Failed,
    Lost,
    Slept,
    Snapshot,
    StepState,
    Stop,
    StopReason,
    Succeeded,
    WaitReason,
)
from app.domain.states import ExecutionStatus, StepStatus
from app.domain.steps import Effect

_ACCEPTS_FAILURE = frozenset({"any_failed", "all_done"})


def plan(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> list[Decision]:
    """The decisions that the facts call for now; an empty list means: wait for another fact, or the run has ended."""
    if snapshot.status.terminal:
        return []
    for phase in (_opening, _outcomes, _stopping, _awakening, _starting, _ending):
        if decisions := list(phase(workflow, snapshot, now)):
            return decisions
    return []


def next_wake(snapshot: Snapshot) -> datetime | None:
    """The earliest time at which `plan` may decide something without a new fact; none while the run is stopped."""
    if snapshot.stop is not None:
        return None
    times = [step.wake_at for step in snapshot.steps.values() if step.wake_at is not None]
    if snapshot.deadline is not None:
        times.append(snapshot.deadline)
    return min(times, default=None)


def _opening(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Iterator[Decision]:
    if snapshot.stop is not None:
        return
    if snapshot.status is ExecutionStatus.PENDING:
        yield Begin()
    elif snapshot.status is ExecutionStatus.WAITING and not _timed_out(snapshot, now):
        due = next_wake(snapshot)
        if due is not None and due <= now:
            yield Resume()


def _timed_out(snapshot: Snapshot, now: datetime) -> bool:
    return snapshot.deadline is not None and snapshot.deadline <= now


def _outcomes(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Iterator[Decision]:
    for step_id, state in snapshot.steps.items():
        match state.outcome:
            case None:
                continue
            case Succeeded():
                yield CompleteStep(step_id, state.outcome)
            case Slept():
                yield SuspendStep(step_id, state.outcome)
            case Aborted():
                yield CancelStep(step_id)
            case Lost():
                yield _recovered(workflow.by_id[step_id], snapshot)
            case Failed():
                yield _failed(workflow.by_id[step_id], state, state.outcome, snapshot)


def _recovered(step: CompiledStep, snapshot: Snapshot) -> Decision:
    if snapshot.stop is not None:
        return CancelStep(step.id)
    if step.effect is Effect.ONCE:
        message = "The worker was lost during this step, and whether its effect happened is unknown; it is not repeated"
        return FailStep(step.id, Failure("outcome_unknown", message, retryable=False), _stops_run(step))
    return RecoverStep(step.id)


def _failed(step: CompiledStep, state: StepState, outcome: Failed, snapshot: Snapshot) -> Decision:
    if snapshot.stop is not None:
        return FailStep(step.id, outcome.failure, _stops_run(step))
    decision = decide_retry(step.retry, outcome.failure, state.failures + 1, outcome.jitter)
    if decision.delay is None:
        return FailStep(step.id, outcome.failure, _stops_run(step))
    return RetryStep(step.id, outcome.failure, decision.delay)


def _stops_run(step: CompiledStep) -> bool:
    return not step.definition.continue_on_error


def _stopping(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Iterator[Decision]:
    stop = snapshot.stop
    if stop is None:
        if _timed_out(snapshot, now):
            yield BeginStop(Stop(StopReason.TIMED_OUT))
    elif stop.reason is StopReason.CANCELLED and _must_announce(snapshot):
        yield BeginStop(stop)
    else:
        yield from _close(workflow, snapshot, stop)


def _must_announce(snapshot: Snapshot) -> bool:
    """A cancellation that cannot end the run at once is first acknowledged by an event."""
    if snapshot.status is ExecutionStatus.RUNNING:
        return bool(snapshot.running)
    return snapshot.status in {ExecutionStatus.WAITING, ExecutionStatus.PAUSED}


def _close(workflow: CompiledWorkflow, snapshot: Snapshot, stop: Stop) -> Iterator[Decision]:
    """End a stopped run once no attempt is under way."""
    if snapshot.running:
        return
    for step_id, state in snapshot.steps.items():
        if state.status is StepStatus.WAITING:
            yield CancelStep(step_id)
        elif state.status is StepStatus.PENDING:
            yield SkipStep(step_id, f"execution_{_stop_word(stop)}")
    match stop.reason:
        case StopReason.CANCELLED:
            yield Cancel(stop)
        case StopReason.TIMED_OUT:
            yield _timed_out_end(workflow, snapshot)


def _timed_out_end(workflow: CompiledWorkflow, snapshot: Snapshot) -> Fail:
    """A run that was failing before its time was up fails with that first failure."""
    first = snapshot.first_failure
    if first is not None and snapshot.deadline is not None:
        failed_at = snapshot.steps[first.step_id].completed_at
        if failed_at is not None and failed_at < snapshot.deadline:
            return Fail(first.failure, first.step_id)
    limit = format_duration(workflow.definition.timeout or 0.0)
    message = f"The execution did not end within its timeout of {limit}"
    return Fail(Failure(StopReason.TIMED_OUT.value, message, retryable=False), None)


def _stop_word(stop: Stop) -> str:
    return "cancelled" if stop.reason is StopReason.CANCELLED else "timed_out"


def _awakening(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Iterator[Decision]:
    if snapshot.stop is not None:
        return
    for step_id, state in snapshot.steps.items():
        if state.status is not StepStatus.WAITING or state.wake_at is None or state.wake_at > now:
            continue
        if state.wait is WaitReason.RETRY:
            yield _attempt(workflow.by_id[step_id], snapshot)
        else:
            yield WakeStep(step_id)


def _starting(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Iterator[Decision]:
    if snapshot.stop is not None:
        return
    failing = snapshot.first_failure is not None
    for step in workflow.steps:
        if snapshot.steps[step.id].status is not StepStatus.PENDING or not _needs_settled(step, snapshot):
            continue
        verdict = _verdict(step, snapshot, failing)
        yield verdict
        failing = failing or (isinstance(verdict, FailStep) and verdict.stops_run)


def _needs_settled(step: CompiledStep, snapshot: Snapshot) -> bool:
    """With a step's needs all its ancestors are settled, so that what it may look at changes no more."""
    return all(snapshot.steps[edge.parent].status.settled for edge in step.edges)


def _verdict(step: CompiledStep, snapshot: Snapshot, failing: bool) -> Decision:
    """What becomes of a pending step whose needs are settled: started, skipped or failed."""
    if failing and step.run_if not in _ACCEPTS_FAILURE:
        return SkipStep(step.id, "execution_failed")
    if (reason := _why_not(step, snapshot)) is not None:
        return SkipStep(step.id, reason)
    try:
        if step.condition is not None and not step.condition.truth(snapshot.lookup):
            return SkipStep(step.id, "condition_false")
    except StepError as error:
        return FailStep(step.id, failure_of(error), _stops_run(step))
    return _attempt(step, snapshot)


def _why_not(step: CompiledStep, snapshot: Snapshot) -> str | None:
    """The reason to skip a step by its `run_if`; None: it may start."""
    parents = [(edge, snapshot.steps[edge.parent]) for edge in step.edges]
    taken = [_taken(edge.port, state) for edge, state in parents]
    match step.run_if:
        case "all_done":
            return None
        case "any_failed":
            failed = any(snapshot.steps[name].status is StepStatus.FAILED for name in step.upstream)
            return None if failed else "nothing_failed"
        case "all_succeeded":
            succeeded = all(state.status is StepStatus.COMPLETED for _, state in parents)
            return None if succeeded and all(taken) else "not_all_succeeded"
        case _:
            return None if any(taken) or not parents else "not_taken"


def _taken(port: str | None, parent: StepState) -> bool:
    """A settled parent's edge is taken if it completed (or failed and the run goes on) and chose the port, if any."""
    if parent.status is StepStatus.FAILED:
        return port is None
    return parent.status is StepStatus.COMPLETED and (port is None or port in parent.ports)


def _attempt(step: CompiledStep, snapshot: Snapshot) -> Decision:
    try:
        config = step.config.evaluate(snapshot.lookup)
        return StartStep(step.id, config, _text(config, f"The `with` of step '{step.id}'"))
    except StepError as error:
        return FailStep(step.id, failure_of(error), _stops_run(step))


def _text(value: JSON, what: str) -> str:
    try:
        return encode(value)
    except NotJson as error:
        raise StepError(f"{what} is not JSON: {error}", code="output_not_json", retryable=False) from None


def _ending(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Iterator[Decision]:
    if snapshot.status is not ExecutionStatus.RUNNING or any(
        not state.status.settled for state in snapshot.steps.values()
    ):
        return
    if snapshot.first_failure is not None:
        yield Fail(snapshot.first_failure.failure, snapshot.first_failure.step_id)
        return
    try:
        output = _text(_output(workflow, snapshot), "The output of the execution")
        risk = _risk_score(workflow, snapshot)
    except StepError as error:
        yield Fail(failure_of(error), None)
        return
    above = workflow.definition.approval_above
    yield Complete(output, risk, risk is not None and above is not None and risk > above)


def _output(workflow: CompiledWorkflow, snapshot: Snapshot) -> JSON:
    """The `output` of the definition; without one, that of the last steps: alone if one completed, else by step id."""
    if workflow.output is not None:
        value: JSON = workflow.output.evaluate(snapshot.lookup)
        return value
    ends = {
        step_id: snapshot.steps[step_id].output
        for step_id in workflow.sinks
        if snapshot.steps[step_id].status is StepStatus.COMPLETED
    }
    if len(ends) == 1:
        return next(iter(ends.values()))
    return dict(ends) or None


def _risk_score(workflow: CompiledWorkflow, snapshot: Snapshot) -> float | None:
    if workflow.risk_score is None:
        return None
    value = workflow.risk_score.evaluate(snapshot.lookup)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise StepError("risk_score must be a number from 0 to 1", code="invalid_risk_score", retryable=False)
    return float(value)
