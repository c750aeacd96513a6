"""From the record back to a snapshot: how a claimed execution goes on where the record ends."""

from collections.abc import Iterable

from app.domain.compiled import CompiledWorkflow
from app.domain.errors import Failure, clean_text
from app.domain.events import timestamp_text
from app.domain.jsontext import decode
from app.domain.snapshot import FirstFailure, Lost, Snapshot, StepState, Stop, StopReason, WaitReason
from app.domain.states import ExecutionStatus, StepStatus
from app.domain.steps import Usage
from app.engine.ports import Claim, Mail, StoredStep


def restore(workflow: CompiledWorkflow, claim: Claim) -> Snapshot:
    """The facts of a claimed execution. Attempts that the record shows as running have lost their worker."""
    agent_results = decode(claim.agent_results_text)
    snapshot = Snapshot(
        execution_id=claim.id,
        status=ExecutionStatus(claim.status),
        input=decode(claim.input_text),
        context={
            "id": claim.id,
            "workflow_id": claim.workflow_id,
            "workflow_version": claim.workflow_version,
            "org_id": claim.org_id,
            "user_id": claim.user_id,
            "created_at": timestamp_text(claim.created_at),
        },
        steps={step.id: StepState() for step in workflow.steps},
        next_seq=claim.next_seq,
        progress=claim.progress,
        started_at=claim.started_at,
        deadline=claim.deadline_at,
        agent_results=agent_results if isinstance(agent_results, dict) else {},
    )
    for stored in claim.steps:
        snapshot.steps[stored.path] = _step_state(stored)
        if stored.status == StepStatus.RUNNING.value:
            snapshot.steps[stored.path].report(Lost(), claim.claimed_at)
    snapshot.first_failure = _first_failure(workflow, claim)
    if snapshot.status is ExecutionStatus.CANCELLING:
        snapshot.stop = stop_requested(claim.mail) or Stop(StopReason.CANCELLED)
    return snapshot


def stop_requested(mail: Iterable[Mail]) -> Stop | None:
    """The first cancellation among the mail."""
    for item in mail:
        if item.kind == "cancel":
            payload = item.payload if isinstance(item.payload, dict) else {}
            reason = payload.get("reason")
            detail = clean_text(reason) if isinstance(reason, str) else None
            return Stop(StopReason.CANCELLED, detail, item.user_id)
    return None


def _step_state(stored: StoredStep) -> StepState:
    status = StepStatus(stored.status)
    return StepState(
        status=status,
        attempt=stored.attempt,
        failures=stored.failures,
        input_text=stored.input_text,
        output=None if stored.output_text is None else decode(stored.output_text),
        output_text=stored.output_text,
        ports=stored.ports,
        failure=None if stored.error is None else Failure(stored.error_code or "step_error", stored.error),
        skip_reason=stored.reason if status is StepStatus.SKIPPED else None,
        wait=WaitReason(stored.reason) if status is StepStatus.WAITING and stored.reason else None,
        wake_at=stored.wake_at,
        started_at=stored.started_at,
        attempt_started_at=stored.attempt_started_at,
        completed_at=stored.completed_at,
        execution_time_ms=stored.execution_time_ms,
        usage=Usage(stored.tokens_used, stored.cost),
    )


def _first_failure(workflow: CompiledWorkflow, claim: Claim) -> FirstFailure | None:
    failed = [
        stored
        for stored in claim.steps
        if stored.status == StepStatus.FAILED.value and not workflow.by_id[stored.path].definition.continue_on_error
    ]
    if not failed:
        return None
    first = min(failed, key=lambda stored: (stored.completed_at is None, stored.completed_at, stored.path))
    return FirstFailure(first.path, Failure(first.error_code or "step_error", first.error or ""))
