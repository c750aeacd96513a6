"""What to do next with a run: a pure function from facts to decisions.

`plan` looks at the definition, the snapshot and the time, and answers with the decisions of the first phase that has
any. `app.domain.evolution` applies them; the caller plans again until nothing is left to decide. Two planners given the
same facts decide the same. The phases stand in three modules: the run as a whole here, what ended or was waited for in
`app.domain.settling`, what begins in `app.domain.starting`.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TypeAlias

from app.domain.compiled import CompiledWorkflow
from app.domain.control import Gate, Stop, StopReason
from app.domain.decisions import (
    Begin,
    BeginStop,
    Cancel,
    CancelStep,
    CloseGate,
    Complete,
    Decision,
    EnterPause,
    Fail,
    OpenGate,
    PassGate,
    Resume,
    SkipStep,
)
from app.domain.definition import ApprovalRule
from app.domain.durations import format_duration
from app.domain.errors import Failure, StepError, failure_of
from app.domain.jsontext import JSON, json_text
from app.domain.settling import awakening, outcomes, wake_reason
from app.domain.snapshot import Snapshot
from app.domain.starting import mapping, starting
from app.domain.states import ExecutionStatus, StepStatus
from app.domain.waits import ApprovalWait, Met, Refused, expire, settle

Phase: TypeAlias = Callable[[CompiledWorkflow, Snapshot, datetime], Sequence[Decision]]

_S = ExecutionStatus


def plan(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Sequence[Decision]:
    """Decisions that the facts call for now; none means: wait for another fact, or the run has ended."""
    if not snapshot.status.terminal:
        for phase in _PHASES:
            if decisions := phase(workflow, snapshot, now):
                return decisions
    return ()


def next_wake(snapshot: Snapshot) -> datetime | None:
    """The earliest time at which `plan` may decide something without a new fact; none while it is stopped or paused."""
    if snapshot.control.stop is not None or snapshot.status is _S.PAUSED:
        return None
    if snapshot.control.held:  # what is due stays as it is until somebody lets the run go on
        return snapshot.deadline
    times = [step.wake_at for _, step in snapshot.unsettled() if step.wake_at is not None]
    if snapshot.deadline is not None:
        times.append(snapshot.deadline)
    gate = snapshot.control.gate
    if gate is not None and gate.deadline is not None and not gate.approved:
        times.append(gate.deadline)
    return min(times, default=None)


def _opening(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Sequence[Decision]:
    pause = snapshot.control.pause
    if snapshot.status is _S.RUNNING or snapshot.control.stop is not None:
        return ()
    if snapshot.status is _S.PENDING:
        start_at = snapshot.control.start_at
        begins = snapshot.may_run and pause is None and (start_at is None or start_at <= now)
        return (Begin(),) if begins else ()
    if snapshot.started_at is None:  # PAUSED before it began: back to the queue, for which it needs no slot
        return (Resume("resumed"),) if pause is not None and pause.lifted else ()
    if not snapshot.may_run or (snapshot.status is _S.WAITING and (pause is not None or _timed_out(snapshot, now))):
        return ()
    if snapshot.status is _S.PAUSED and pause is not None and pause.lifted:
        return (Resume("resumed"),)
    if snapshot.status is _S.WAITING and (reason := _why_wake(snapshot, now)) is not None:
        return (Resume(reason),)
    return ()


def _why_wake(snapshot: Snapshot, now: datetime) -> str | None:
    gate = snapshot.control.gate
    if gate is not None and _gate_outcome(gate, snapshot, now) is not None:
        return "approval"
    return wake_reason(snapshot, now)


def _timed_out(snapshot: Snapshot, now: datetime) -> bool:
    return snapshot.deadline is not None and snapshot.deadline <= now and snapshot.status is not _S.PAUSED


def _stopping(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Sequence[Decision]:
    stop = snapshot.control.stop
    if stop is None:
        return (BeginStop(Stop(StopReason.TIMED_OUT)),) if _timed_out(snapshot, now) else ()
    if stop.reason is StopReason.CANCELLED and _must_announce(snapshot):
        return (BeginStop(stop),)
    return [*_close(workflow, snapshot, stop)]


def _must_announce(snapshot: Snapshot) -> bool:
    """A cancellation that cannot end the run at once is first acknowledged by an event."""
    if snapshot.status is _S.RUNNING:
        return bool(snapshot.running)
    return snapshot.status in {_S.WAITING, _S.PAUSED}


def _close(workflow: CompiledWorkflow, snapshot: Snapshot, stop: Stop) -> Iterator[Decision]:
    """End a stopped run once no attempt is under way, or at once if it is forced."""
    if snapshot.running and not stop.forced:
        return
    for path, _ in snapshot.unsettled():
        yield CancelStep(path)
    for step_id, state in snapshot.steps.items():
        if state.items is not None and not state.status.settled:
            yield CancelStep(step_id)
        elif state.status is StepStatus.PENDING:
            yield SkipStep(step_id, f"execution_{_stop_word(stop)}")
    match stop.reason:
        case StopReason.CANCELLED:
            yield Cancel(stop)
        case StopReason.TIMED_OUT:
            yield _timed_out_end(workflow, snapshot)
        case StopReason.QUEUE_EXPIRED:
            limit = format_duration(workflow.definition.queue_ttl or 0.0)
            waited = f"within {limit}" if workflow.definition.queue_ttl else "in time"
            yield Fail(Failure(stop.reason.value, f"The execution could not begin {waited}", retryable=False), None)


def _timed_out_end(workflow: CompiledWorkflow, snapshot: Snapshot) -> Fail:
    """A run that was failing before its time was up fails with that first failure."""
    first = snapshot.first_failure
    if first is not None and first.step_id in snapshot.steps and snapshot.deadline is not None:
        failed_at = snapshot.steps[first.step_id].completed_at
        if failed_at is not None and failed_at < snapshot.deadline:
            return Fail(first.failure, first.step_id)
    limit = format_duration(workflow.definition.timeout or 0.0)
    message = f"The execution did not end within its timeout of {limit}"
    return Fail(Failure(StopReason.TIMED_OUT.value, message, retryable=False), None)


def _stop_word(stop: Stop) -> str:
    match stop.reason:
        case StopReason.CANCELLED:
            return "cancelled"
        case StopReason.TIMED_OUT:
            return "timed_out"
        case StopReason.QUEUE_EXPIRED:
            return "expired"


def _pausing(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Sequence[Decision]:
    if snapshot.control.pause is None or snapshot.control.stop is not None:
        return ()
    pauses = snapshot.status in {_S.PENDING, _S.RUNNING, _S.WAITING} and not snapshot.running
    return (EnterPause(),) if pauses else ()


def _gate(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Sequence[Decision]:
    gate = snapshot.control.gate
    if gate is None or gate.approved or not snapshot.goes_on:
        return ()
    match _gate_outcome(gate, snapshot, now):
        case Met() as met:
            return (PassGate(met.letters),)
        case Refused() as refused:
            status = "EXPIRED" if refused.failure.code == "approval_expired" else "REJECTED"
            return (CloseGate(refused.failure, refused.letters, status),)
        case None:
            return ()


def _gate_outcome(gate: Gate, snapshot: Snapshot, now: datetime) -> Met | Refused | None:
    if gate.approved:
        return None
    found = settle(gate.approval, snapshot.letters)
    if found is None and gate.deadline is not None and gate.deadline <= now:
        found = expire(gate.approval)
    return found


def _ending(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Sequence[Decision]:
    if snapshot.frontier.left or not snapshot.goes_on:
        return ()
    if snapshot.first_failure is not None:
        return (Fail(snapshot.first_failure.failure, snapshot.first_failure.step_id),)
    gate = snapshot.control.gate
    if gate is not None and not gate.approved:
        return ()
    try:
        output = json_text(_output(workflow, snapshot), "The output of the execution")
        risk = _risk_score(workflow, snapshot)
    except StepError as error:
        return (Fail(failure_of(error), None),)
    above = workflow.definition.approval_above
    risky = risk is not None and above is not None and risk > above
    if risky and gate is None:
        return (OpenGate(_new_gate(workflow, snapshot, risk or 0.0)),)
    return (Complete(output, risk, risky),)


def _new_gate(workflow: CompiledWorkflow, snapshot: Snapshot, risk: float) -> Gate:
    rule = workflow.definition.approval or ApprovalRule()
    approval = ApprovalWait(
        approval_id="appr_" + snapshot.execution_id.removeprefix("exec_"),
        title=f"{workflow.definition.name}: risk {risk:g}",
        message=f"The risk score {risk:g} is above {workflow.definition.approval_above:g}",
        deciders=rule.deciders,
        quorum=rule.quorum,
        self_approval=rule.self_approval,
        on_deadline=rule.on_deadline,
    )
    return Gate(approval, None)


def _output(workflow: CompiledWorkflow, snapshot: Snapshot) -> JSON:
    """The `output` of the definition; without one, that of the last steps: alone if one completed, else by step id.

    Of a step that was run alone it is that step's.
    """
    if snapshot.control.only is not None:
        return snapshot.steps[snapshot.control.only].output
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
    if workflow.risk_score is None or snapshot.control.only is not None:
        return None
    value = workflow.risk_score.evaluate(snapshot.lookup)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise StepError("risk_score must be a number from 0 to 1", code="invalid_risk_score", retryable=False)
    return float(value)


_PHASES: Sequence[Phase] = (
    _opening, outcomes, _stopping, _pausing, awakening, mapping, starting, _gate, _ending
)  # fmt: skip
