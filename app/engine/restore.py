"""From the record back to a snapshot: how a claimed execution goes on where the record ends."""

from datetime import datetime

from app.domain.compiled import CompiledWorkflow
from app.domain.context import run_context
from app.domain.control import Control, Stop, StopReason, control_from, with_budget
from app.domain.errors import Failure
from app.domain.frontier import Frontier
from app.domain.jsontext import decode
from app.domain.snapshot import FirstFailure, Snapshot, split_path
from app.domain.states import ExecutionStatus, StepStatus
from app.domain.step_state import Lost, MapState, StepState, WaitReason
from app.domain.steps import NO_USAGE, Usage
from app.domain.waits import wait_from
from app.engine.ports import Claim
from app.engine.rows import StoredStep

_VERDICTS = {
    "concurrency_skipped": "As many runs as may run at once were running, and this one was not to wait",
    "concurrency_cancelled": "A newer execution took its place",
}


def restore(workflow: CompiledWorkflow, claim: Claim) -> Snapshot:
    """The facts of a claimed execution, its mail left out. Attempts recorded as running have lost their worker."""
    agent_results = decode(claim.agent_results_text)
    snapshot = Snapshot(
        execution_id=claim.id,
        status=ExecutionStatus(claim.status),
        input=decode(claim.input_text),
        context=run_context(
            execution_id=claim.id,
            workflow_id=claim.workflow_id,
            workflow_version=claim.workflow_version,
            org_id=claim.org_id,
            user_id=claim.user_id,
            created_at=claim.created_at,
        ),
        steps={step.id: StepState() for step in workflow.steps},
        frontier=Frontier(),
        next_seq=claim.next_seq,
        progress=claim.progress,
        started_at=claim.started_at,
        deadline=claim.deadline_at,
        control=_control(workflow, claim),
        agent_results=agent_results if isinstance(agent_results, dict) else {},
        may_run=claim.may_run,
    )
    if claim.steps:
        _restore_steps(snapshot, claim)
        _restore_values(workflow, snapshot)
        snapshot.counted = sum(1 for step in snapshot.steps.values() if step.status.settled and not step.cut_off)
        snapshot.first_failure = _first_failure(workflow, claim)
    snapshot.frontier = Frontier.of(workflow, snapshot.steps)
    if snapshot.status is ExecutionStatus.CANCELLING and snapshot.control.stop is None:
        snapshot.control.stop = Stop(StopReason.CANCELLED)
    return snapshot


def _control(workflow: CompiledWorkflow, claim: Claim) -> Control:
    control = control_from(decode(claim.control_text))
    if workflow.definition.budget is not None:
        own = control.budget.model_dump(exclude_none=True)
        control.budget = with_budget(workflow.definition.budget, own)
    if claim.status == ExecutionStatus.PENDING and claim.wake_at is not None:
        control.start_at = claim.wake_at
    if claim.verdict == StopReason.QUEUE_EXPIRED.value:
        control.stop = Stop(StopReason.QUEUE_EXPIRED)
    elif claim.verdict is not None:
        control.stop = Stop(StopReason.CANCELLED, _VERDICTS[claim.verdict], code=claim.verdict)
    return control


def _restore_steps(snapshot: Snapshot, claim: Claim) -> None:
    lost: list[str] = []
    used: dict[str, Usage] = {}
    for stored in sorted(claim.steps, key=_when_ended):  # the first item that failed is the one that is told
        step_id, index = split_path(stored.path)
        if step_id not in snapshot.steps:
            continue
        state = _step_state(stored)
        if stored.reused_from is None:
            snapshot.starts += stored.attempt
        if index is None:
            snapshot.steps[step_id] = state
            if state.items is not None:  # none of them may have begun
                snapshot.maps.setdefault(step_id, MapState())
        else:
            _restore_item(snapshot.maps.setdefault(step_id, MapState()), index, state)
            used[step_id] = used.get(step_id, NO_USAGE) + state.usage
        if state.status is StepStatus.RUNNING and state.items is None:
            lost.append(stored.path)
    for path in lost:
        snapshot.report(path, Lost(), claim.claimed_at)
    for step_id, usage in used.items():
        if not snapshot.steps[step_id].status.settled:
            snapshot.steps[step_id].usage = usage


def _when_ended(stored: StoredStep) -> tuple[bool, datetime | None, str]:
    return stored.completed_at is None, stored.completed_at, stored.path


def _restore_item(items: MapState, index: int, state: StepState) -> None:
    if state.status.settled:
        items.results[index] = state.output_text if state.status is StepStatus.COMPLETED else None
        if state.failure is not None and items.failure is None:
            items.failure = Failure(state.failure.code, f"Item {index}: {state.failure.message}", retryable=False)
    else:
        items.active[index] = state


def _restore_values(workflow: CompiledWorkflow, snapshot: Snapshot) -> None:
    """The items themselves are computed again: they follow from outputs that do not change any more."""
    for step_id, items in snapshot.maps.items():
        step, state = workflow.by_id[step_id], snapshot.steps[step_id]
        if step.definition.on_item_error == "continue":
            items.failure = None
        if state.status is not StepStatus.RUNNING or step.items is None:
            continue
        values = step.items.evaluate(snapshot.lookup)
        items.values = values if isinstance(values, list) else []
        items.began(0)


def _step_state(stored: StoredStep) -> StepState:
    status = StepStatus(stored.status)
    wait = WaitReason(stored.reason) if status is StepStatus.WAITING and stored.reason else None
    return StepState(
        status=status,
        attempt=stored.attempt,
        failures=stored.failures,
        iteration=stored.iteration,
        items=stored.items,
        input_text=stored.input_text,
        output=None if stored.output_text is None else decode(stored.output_text),
        output_text=stored.output_text,
        ports=stored.ports,
        failure=None if stored.error is None else Failure(stored.error_code or "step_error", stored.error),
        reason=stored.reason if wait is None else None,
        wait=wait,
        awaited=None if stored.awaits_text is None else wait_from(decode(stored.awaits_text)),
        wake_at=stored.wake_at,
        started_at=stored.started_at,
        attempt_started_at=stored.attempt_started_at,
        completed_at=stored.completed_at,
        execution_time_ms=stored.execution_time_ms,
        usage=Usage(stored.tokens_used, stored.cost),
        reused_from=stored.reused_from,
        edited_by=stored.edited_by,
    )


def _first_failure(workflow: CompiledWorkflow, claim: Claim) -> FirstFailure | None:
    failed = [
        stored
        for stored in claim.steps
        if stored.status == StepStatus.FAILED.value
        and stored.path in workflow.by_id
        and not workflow.by_id[stored.path].definition.continue_on_error
    ]
    if not failed:
        return None
    first = min(failed, key=_when_ended)
    return FirstFailure(first.path, Failure(first.error_code or "step_error", first.error or ""))
