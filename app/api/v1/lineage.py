"""Executions made from earlier ones: retry, replay, one step alone; and the line they form."""

from typing import Annotated

from fastapi import Body
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import ServicesDep
from app.api.responses import Json
from app.api.routing import problems, router
from app.api.v1.executions import CanExecute, CanRead
from app.api.v1.schemas.executions import Execution
from app.api.v1.schemas.lineage import LineageAnswer, Replay, Retry, RunStep, lineage_view
from app.api.v1.starting import START_RESPONSES, IdempotencyKey, Prefer, idempotency_key, started_answer

executions = router("/executions", "Control")
of_workflow = router("/workflows", "Control")


@executions.post(
    "/{execution_id}/retry",
    status_code=201,
    operation_id="retryExecution",
    summary="Repair a failed execution by a new one",
    response_model=Execution,
    responses=START_RESPONSES,
)
async def retry_execution(
    request: Request,
    services: ServicesDep,
    caller: CanExecute,
    execution_id: str,
    body: Annotated[
        Retry | None,
        Body(
            openapi_examples={
                "failed": {"summary": "What did not end well", "value": {}},
                "item": {
                    "summary": "One item, on the latest version",
                    "value": {"from_step": "charge[3]", "version": "latest"},
                },
            }
        ),
    ] = None,
    prefer: Prefer = None,
    _key: IdempotencyKey = None,
) -> Response:
    """The new execution has the same input, `retry_of`, and the finished steps as its own, marked `reused_from`: only
    what failed and what comes after it runs. 409 unless the execution failed, was cancelled, or completed and
    `from_step` says what to do again."""
    started = await services.lineages.retry(caller, execution_id, (body or Retry()).asked(idempotency_key(request)))
    return await started_answer(request, services, caller, started, prefer)


@executions.post(
    "/{execution_id}/replay",
    status_code=201,
    operation_id="replayExecution",
    summary="Run an ended execution again as a new one",
    response_model=Execution,
    responses=START_RESPONSES,
)
async def replay_execution(
    request: Request,
    services: ServicesDep,
    caller: CanExecute,
    execution_id: str,
    body: Annotated[
        Replay | None,
        Body(
            openapi_examples={
                "whole": {"summary": "From the start", "value": {}},
                "step": {
                    "summary": "From a step on, with another input",
                    "value": {"from_step": "qualify", "input": {"city": "Hamburg"}, "breakpoints": ["send"]},
                },
            }
        ),
    ] = None,
    prefer: Prefer = None,
    _key: IdempotencyKey = None,
) -> Response:
    """The new execution has `forked_from`. Another `input` is seen by the steps that run again: nothing before
    `from_step` is computed anew, but approvals are asked for again, as they are with other `pins`. Steps that must
    happen once and did are reused, even from the start, unless `redo_once`. 409 while the execution has not ended."""
    wanted = (body or Replay()).asked(idempotency_key(request))
    started = await services.lineages.replay(caller, execution_id, wanted)
    return await started_answer(request, services, caller, started, prefer)


@of_workflow.post(
    "/{workflow_id}/steps/{step_id}/run",
    status_code=201,
    operation_id="runWorkflowStep",
    summary="Run one step of a workflow alone",
    response_model=Execution,
    responses=START_RESPONSES,
)
async def run_step(
    request: Request,
    services: ServicesDep,
    caller: CanExecute,
    workflow_id: str,
    step_id: str,
    body: Annotated[
        RunStep | None,
        Body(openapi_examples={"given": {"value": {"input": "Berlin", "outputs": {"find": {"leads": ["Nordlicht"]}}}}}),
    ] = None,
    prefer: Prefer = None,
    _key: IdempotencyKey = None,
) -> Response:
    """A whole execution in which this step alone runs: `outputs` stand for other steps, the rest are skipped."""
    given = body or RunStep()
    started = await services.lineages.run_step(
        caller, workflow_id, step_id, given.input, given.outputs, idempotency_key(request)
    )
    return await started_answer(request, services, caller, started, prefer)


@executions.get(
    "/{execution_id}/lineage",
    operation_id="getExecutionLineage",
    summary="List an execution's retries, replays and children",
    response_model=LineageAnswer,
    responses=problems("not_found"),
)
async def get_lineage(services: ServicesDep, caller: CanRead, execution_id: str) -> Response:
    """Every execution of the same root and what they started, the oldest first, at most 200."""
    return Json(lineage_view(await services.lineages.lineage(caller, execution_id)))
