"""What people ask of executions under way. 202: the wish is durable; the execution's owner applies it."""

from typing import Annotated

from fastapi import Body, Depends
from starlette.requests import Request
from starlette.responses import Response

from app.api import routing
from app.api.deps import Require, ServicesDep, demand
from app.api.responses import Json
from app.api.routing import problems
from app.api.v1.executions import execution_status
from app.api.v1.schemas.control import (
    BulkAnswer,
    BulkFilter,
    BulkRequest,
    ControlRequest,
    EditOutput,
    SendSignal,
    SetBreakpoints,
    SetBudget,
    Signal,
    bulk_view,
    signal_view,
)
from app.api.v1.schemas.executions import Execution, execution_view
from app.api.v1.starting import IdempotencyKey, idempotency_key
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.db.queries.executions import ExecutionFilter
from app.domain.mail import MailKind
from app.services import Services
from app.services.bulk import BulkRequest as Bulk

router = routing.router("/executions", "Control")

CanControl = Annotated[Caller, Depends(Require(Permission.EXECUTIONS_CONTROL))]
Why = Annotated[
    ControlRequest | None,
    Body(openapi_examples={"reason": {"value": {"reason": "Wrong input"}}, "none": {"value": {}}}),
]

_BODY = ("validation_error", "invalid_json", "unsupported_media_type")
_ASKED = problems("not_found", "invalid_state", *_BODY)
_ASKED_ABOUT_STEPS = problems("not_found", "invalid_state", "workflow_invalid", *_BODY)


@router.post(
    "/{execution_id}/cancel",
    status_code=202,
    operation_id="cancelExecution",
    summary="Cancel an execution",
    response_model=Execution,
    responses=_ASKED,
)
async def cancel_execution(services: ServicesDep, caller: CanControl, execution_id: str, body: Why = None) -> Response:
    """No further step starts; running ones are cancelled, after a grace by force. What it started is cancelled too."""
    return await _ask(services, caller, execution_id, MailKind.CANCEL, body)


@router.post(
    "/{execution_id}/terminate",
    status_code=202,
    operation_id="terminateExecution",
    summary="End an execution at once",
    response_model=Execution,
    responses=_ASKED,
)
async def terminate_execution(
    services: ServicesDep, caller: CanControl, execution_id: str, body: Why = None
) -> Response:
    """Like cancel without the grace: running attempts are given up, and whether they took effect stays unknown."""
    return await _ask(services, caller, execution_id, MailKind.TERMINATE, body)


@router.post(
    "/{execution_id}/pause",
    status_code=202,
    operation_id="pauseExecution",
    summary="Pause an execution",
    response_model=Execution,
    responses=_ASKED,
)
async def pause_execution(services: ServicesDep, caller: CanControl, execution_id: str, body: Why = None) -> Response:
    """No further step starts; PAUSED when running ones have ended, and its timeouts stand still. Again is no error."""
    return await _ask(services, caller, execution_id, MailKind.PAUSE, body)


@router.post(
    "/{execution_id}/resume",
    status_code=202,
    operation_id="resumeExecution",
    summary="Let a paused execution go on",
    response_model=Execution,
    responses=_ASKED,
)
async def resume_execution(services: ServicesDep, caller: CanControl, execution_id: str, body: Why = None) -> Response:
    """Also from a breakpoint, or from a budget used up once it is raised. One that is not paused just goes on."""
    return await _ask(services, caller, execution_id, MailKind.RESUME, body)


@router.post(
    "/{execution_id}/step",
    status_code=202,
    operation_id="stepExecution",
    summary="Let exactly one step of a paused execution start",
    response_model=Execution,
    responses=_ASKED,
)
async def step_execution(services: ServicesDep, caller: CanControl, execution_id: str, body: Why = None) -> Response:
    """Then it pauses again. 409 unless it is PAUSED."""
    return await _ask(services, caller, execution_id, MailKind.STEP, body)


@router.post(
    "/{execution_id}/signal",
    status_code=202,
    operation_id="signalExecution",
    summary="Send a signal to an execution",
    response_model=Signal,
    responses=problems("not_found", "invalid_state", "too_many_signals", *_BODY),
)
async def signal_execution(
    services: ServicesDep,
    caller: CanControl,
    execution_id: str,
    body: Annotated[
        SendSignal,
        Body(
            openapi_examples={
                "paid": {"value": {"name": "paid", "payload": {"amount": 120}, "dedupe_key": "payment-77"}},
                "bare": {"summary": "A name alone", "value": {"name": "go"}},
            }
        ),
    ],
) -> Response:
    """Stored first and matched later: it may come before, at or after the moment a step waits for it.

    With a `dedupe_key` repeating it is safe: the answer is then that of the first, with `duplicate` true. An execution
    keeps at most 1,000 signals, and 8 MiB of them, that no step has used.
    """
    sent = await services.control.signal(caller, execution_id, body.name, body.payload, body.dedupe_key)
    return Json(signal_view(sent), 202)


@router.put(
    "/{execution_id}/breakpoints",
    status_code=202,
    operation_id="setExecutionBreakpoints",
    summary="Set the steps before which an execution pauses",
    response_model=Execution,
    responses=_ASKED_ABOUT_STEPS,
)
async def set_breakpoints(
    services: ServicesDep,
    caller: CanControl,
    execution_id: str,
    body: Annotated[SetBreakpoints, Body(openapi_examples={"one": {"value": {"steps": ["qualify"]}}})],
) -> Response:
    """Replaces the whole set; an empty list removes all. Steps that have started already are not stopped."""
    return Json(execution_view(await services.control.set_breakpoints(caller, execution_id, body.steps)), 202)


@router.put(
    "/{execution_id}/steps/{step_id}/output",
    status_code=202,
    operation_id="setExecutionStepOutput",
    summary="Edit or pin the output of a step",
    response_model=Execution,
    responses=_ASKED_ABOUT_STEPS,
)
async def set_output(
    services: ServicesDep,
    caller: CanControl,
    execution_id: str,
    step_id: str,
    body: Annotated[
        EditOutput, Body(openapi_examples={"score": {"value": {"output": {"score": 0.9}, "reason": "Wrong model"}}})
    ],
) -> Response:
    """A step that has not started gets this output and does not run. A completed one gets it while the execution is
    PAUSED and nothing downstream has started or was skipped."""
    row = await services.control.edit_output(caller, execution_id, step_id, body.output, body.reason)
    return Json(execution_view(row), 202)


@router.patch(
    "/{execution_id}/budget",
    status_code=202,
    operation_id="setExecutionBudget",
    summary="Change what an execution may use",
    response_model=Execution,
    responses=_ASKED,
)
async def set_budget(
    services: ServicesDep,
    caller: CanControl,
    execution_id: str,
    body: Annotated[SetBudget, Body(openapi_examples={"cost": {"value": {"max_cost": 5.0, "reason": "Approved"}}})],
) -> Response:
    """Limits left out stay. An execution that paused because a budget was used up goes on when it is resumed."""
    row = await services.control.set_budget(caller, execution_id, body.limits(), body.reason)
    return Json(execution_view(row), 202)


@router.post(
    "/bulk",
    operation_id="controlExecutions",
    summary="Ask the same of many executions",
    response_model=BulkAnswer,
    responses=problems(
        "count_changed", "too_many_matches", "invalid_idempotency_key", "idempotency_key_reused", *_BODY
    ),
)
async def control_executions(
    request: Request,
    services: ServicesDep,
    caller: CanControl,
    body: Annotated[
        BulkRequest,
        Body(
            openapi_examples={
                "preview": {
                    "summary": "How many would it be?",
                    "value": {"action": "cancel", "filter": {"workflow_id": "wf_sales"}, "dry_run": True},
                },
                "retry": {
                    "summary": "Retry what failed, if it is still 12",
                    "value": {"action": "retry", "filter": {"status": ["failed"]}, "expected_count": 12},
                },
            }
        ),
    ],
    _key: IdempotencyKey = None,
) -> Response:
    """Of those that match, it is asked of the ones under way; `retry` takes those that failed or were cancelled and
    were not retried yet, and makes a new execution of each (which needs `executions.execute` too). At most 10,000."""
    if body.action == "retry":
        await demand(caller, Permission.EXECUTIONS_EXECUTE, services)
    wanted = Bulk(
        action=body.action,
        wanted=_filter(body.filter),
        reason=body.reason,
        dry_run=body.dry_run,
        expected_count=body.expected_count,
        idempotency_key=idempotency_key(request),
    )
    done = await services.bulk.apply(caller, wanted)
    return Json(bulk_view(done), headers={"Idempotency-Replayed": "true"} if done.replayed else {})


async def _ask(
    services: Services, caller: Caller, execution_id: str, wish: MailKind, body: ControlRequest | None
) -> Response:
    row = await services.control.ask(caller, execution_id, wish, body.reason if body else None)
    return Json(execution_view(row), 202)


def _filter(given: BulkFilter) -> ExecutionFilter:
    statuses = (execution_status(word, f"/filter/status/{index}") for index, word in enumerate(given.status))
    return ExecutionFilter(
        statuses=frozenset(statuses),
        workflow_id=given.workflow_id,
        created_after=given.created_after,
        created_before=given.created_before,
        labels=given.labels,
        fingerprint=given.fingerprint,
        ids=None if given.ids is None else frozenset(given.ids),
        retry_of=given.retry_of,
        parent_id=given.parent_id,
        root_id=given.root_id,
    )
