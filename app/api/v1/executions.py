"""Executions: start, read, list."""

from typing import Annotated

from fastapi import Body, Depends, Query
from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import Require, ServicesDep
from app.api.pagination import Cursor, Limit, page_answer
from app.api.parameters import Prefixed
from app.api.responses import NO_STORE, Json
from app.api.routing import problems, router
from app.api.text.answer import TEXT_FORMS
from app.api.v1.execution_answer import execution_answer
from app.api.v1.schemas.execution_steps import ItemPage, Step, Steps, item_views, step_view, step_views
from app.api.v1.schemas.executions import (
    AggregateMetrics,
    Execution,
    ExecutionPage,
    ExecutionWithSteps,
    StartExecution,
    StartOptions,
    aggregate_view,
    execution_view,
)
from app.api.v1.schemas.moments import Moment
from app.api.v1.starting import START_RESPONSES, IdempotencyKey, Prefer, start_answer, until_terminal, wait_seconds
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.db.queries.executions import ExecutionFilter
from app.domain.errors import NotFound, Problem, Problems
from app.domain.states import ExecutionStatus, StepStatus
from app.services import Services

executions = router("/executions", "Executions")
of_workflow = router("/workflows", "Executions")

_ALIASES = {"QUEUED": "PENDING", "SUCCESS": "COMPLETED"}

CanExecute = Annotated[Caller, Depends(Require(Permission.EXECUTIONS_EXECUTE))]
CanRead = Annotated[Caller, Depends(Require(Permission.EXECUTIONS_READ))]


@executions.post(
    "",
    status_code=201,
    operation_id="startExecution",
    summary="Start an execution",
    response_model=Execution,
    responses=START_RESPONSES,
)
async def start_execution(
    request: Request,
    services: ServicesDep,
    caller: CanExecute,
    body: Annotated[
        StartExecution,
        Body(
            openapi_examples={
                "text": {
                    "summary": "Text as input",
                    "value": {"workflow_id": "wf_sales", "input": "Find leads in Berlin"},
                },
                "object": {
                    "summary": "An object as input, with labels",
                    "value": {"workflow_id": "wf_sales", "input": {"city": "Berlin"}, "labels": {"team": "sales"}},
                },
                "later": {
                    "summary": "Not before a time, within a budget",
                    "value": {
                        "workflow_id": "wf_sales",
                        "start_at": "2030-01-01T06:00:00Z",
                        "queue_ttl": "10m",
                        "budget": {"max_cost": 1.5},
                    },
                },
            }
        ),
    ],
    prefer: Prefer = None,
    _key: IdempotencyKey = None,
) -> Response:
    """The record is durable as PENDING when this answers; the run begins at once. Any JSON is accepted as `input`."""
    return await start_answer(request, services, caller, body.workflow_id, body, prefer)


@of_workflow.post(
    "/{workflow_id}/execute",
    status_code=201,
    operation_id="executeWorkflow",
    summary="Start an execution of this workflow",
    response_model=Execution,
    responses=START_RESPONSES,
)
async def execute_workflow(
    request: Request,
    services: ServicesDep,
    caller: CanExecute,
    workflow_id: str,
    body: Annotated[
        StartOptions | None, Body(openapi_examples={"input": {"value": {"input": {"city": "Berlin"}}}})
    ] = None,
    prefer: Prefer = None,
    _key: IdempotencyKey = None,
) -> Response:
    """The same as `POST /executions` with the workflow in the path; the body may be empty."""
    return await start_answer(request, services, caller, workflow_id, body or StartOptions(), prefer)


Id = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Statuses = Annotated[
    list[str] | None,
    Query(alias="status", description="Repeatable, any case; `queued` and `success` are PENDING and COMPLETED."),
]


async def execution_filter(
    labels: Annotated[dict[str, str], Depends(Prefixed("label."))],
    statuses: Statuses = None,
    workflow_id: Annotated[str | None, Query(max_length=64)] = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
    fingerprint: Annotated[str | None, Query(max_length=200, description="Those that failed in this way.")] = None,
    ids: Annotated[list[Id] | None, Query(max_length=100, description="Repeatable.")] = None,
    retry_of: Annotated[Id | None, Query(description="Retries of this execution.")] = None,
    parent_id: Annotated[Id | None, Query(description="Those that this execution started.")] = None,
    root_id: Annotated[Id | None, Query(description="This execution and its retries and replays.")] = None,
) -> ExecutionFilter:
    """The filter in the query string; `label.<key>=<value>` narrows by label."""
    wanted = frozenset(map(execution_status, statuses or ()))
    return ExecutionFilter(
        statuses=wanted,
        workflow_id=workflow_id,
        created_after=created_after,
        created_before=created_before,
        labels=labels,
        fingerprint=fingerprint,
        ids=None if ids is None else frozenset(ids),
        retry_of=retry_of,
        parent_id=parent_id,
        root_id=root_id,
    )


Filter = Annotated[ExecutionFilter, Depends(execution_filter)]


@executions.get(
    "",
    operation_id="listExecutions",
    summary="List executions, the newest first",
    response_model=ExecutionPage,
    responses=problems("validation_error", "invalid_cursor"),
)
async def list_executions(
    request: Request,
    services: ServicesDep,
    caller: CanRead,
    wanted: Filter,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Filter by status, workflow, time of creation, labels, failure and kin; page by cursor. All that is given narrows,
    as in the filter of `POST /executions/bulk`."""
    return await _page(request, services, caller, wanted, limit, cursor)


@of_workflow.get(
    "/{workflow_id}/executions",
    operation_id="listWorkflowExecutions",
    summary="List a workflow's executions, the newest first",
    response_model=ExecutionPage,
    responses=problems("not_found", "validation_error", "invalid_cursor"),
)
async def list_workflow_executions(
    request: Request,
    services: ServicesDep,
    caller: CanRead,
    workflow_id: str,
    statuses: Statuses = None,
    latest: Annotated[bool, Query(description="Only the newest one.")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """`?latest=true` answers with the newest execution alone, in the same form."""
    await services.workflows.get(caller, workflow_id)
    wanted = ExecutionFilter(frozenset(map(execution_status, statuses or ())), workflow_id)
    if latest:
        rows = await services.executions.page(caller, wanted, before=None, limit=1)
        return Json({"data": [execution_view(row) for row in rows], "next_cursor": None, "has_more": False})
    return await _page(request, services, caller, wanted, limit, cursor)


@executions.get(
    "/metrics",
    operation_id="getExecutionMetrics",
    summary="Figures over executions",
    response_model=AggregateMetrics,
    responses=problems("validation_error"),
)
async def execution_metrics(services: ServicesDep, caller: CanRead, wanted: Filter) -> Response:
    """Counts, durations, tokens and cost by status, narrowed like the list."""
    return Json(aggregate_view(await services.executions.metrics(caller, wanted)))


@executions.get(
    "/{execution_id}",
    operation_id="getExecution",
    summary="Read an execution with its steps and attempts",
    response_model=ExecutionWithSteps,
    responses={
        200: {"description": "The record, or by Accept a text form of it", "content": dict(TEXT_FORMS)},
        **problems("not_found"),
    },
)
async def get_execution(
    request: Request, services: ServicesDep, caller: CanRead, execution_id: str, prefer: Prefer = None
) -> Response:
    """With `Prefer: wait=30` the answer waits for the end of the run, at most so many seconds."""
    seconds = wait_seconds(prefer)
    if seconds is not None:
        with services.streams.watching_end(execution_id) as watch:
            if not (await services.streams.check(caller.org_id, execution_id)).terminal:
                await until_terminal(request, services, caller, watch, seconds)
    return await execution_answer(request, services, caller, await services.executions.detail(caller, execution_id))


@executions.get(
    "/{execution_id}/steps",
    operation_id="listExecutionSteps",
    summary="List an execution's steps",
    response_model=Steps,
    responses=problems("not_found"),
)
async def list_steps(services: ServicesDep, caller: CanRead, execution_id: str) -> Response:
    """All steps in topological order, also those not reached yet; items of `for_each` steps are listed apart."""
    return Json({"data": step_views(await services.executions.detail(caller, execution_id))}, headers=NO_STORE)


@executions.get(
    "/{execution_id}/steps/{step_id}",
    operation_id="getExecutionStep",
    summary="Read one step of an execution",
    response_model=Step,
    responses=problems("not_found"),
)
async def get_step(services: ServicesDep, caller: CanRead, execution_id: str, step_id: str) -> Response:
    """The step, or one item (`map[3]`), with its input, output, error and attempts."""
    view = step_view(await services.executions.step(caller, execution_id, step_id), step_id)
    if view is None:
        raise NotFound("There is no such step")
    return Json(view, headers=NO_STORE)


@executions.get(
    "/{execution_id}/steps/{step_id}/items",
    operation_id="listExecutionStepItems",
    summary="List the items of a `for_each` step",
    response_model=ItemPage,
    responses=problems("not_found", "validation_error", "invalid_cursor"),
)
async def list_items(
    request: Request,
    services: ServicesDep,
    caller: CanRead,
    execution_id: str,
    step_id: str,
    statuses: Annotated[
        list[str] | None, Query(alias="status", description="Of the items. Repeatable, any case.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The items that have started, by index. A step without `for_each` has none."""
    scope = f"{caller.org_id}:items:{execution_id}:{step_id}"
    after = request.app.state.cursors.read(cursor, scope)
    wanted = frozenset(map(_step_status, statuses or ()))
    found = await services.executions.items(caller, execution_id, step_id, wanted, after=after, limit=limit + 1)
    return page_answer(
        request, item_views(found), limit, view=lambda item: item, position=lambda item: str(item["id"]), scope=scope
    )


async def _page(
    request: Request, services: Services, caller: Caller, wanted: ExecutionFilter, limit: int, cursor: str | None
) -> Response:
    scope = f"{caller.org_id}:executions"
    before = request.app.state.cursors.read(cursor, scope)
    rows = await services.executions.page(caller, wanted, before=before, limit=limit + 1)
    return page_answer(request, rows, limit, view=execution_view, position=lambda row: row["id"], scope=scope)


def execution_status(word: str, pointer: str = "query:status") -> str:
    """A status as clients write it: any case, and two aliases; raises Problems."""
    upper = word.upper()
    status = _ALIASES.get(upper, upper)
    if status not in set(ExecutionStatus):
        known = ", ".join(ExecutionStatus)
        detail = f"status is one of {known}"
        raise Problems(detail, [Problem("invalid_value", detail, pointer)])
    return status


def _step_status(word: str) -> str:
    status = word.upper()
    if status not in set(StepStatus):
        detail = f"status is one of {', '.join(StepStatus)}"
        raise Problems(detail, [Problem("invalid_value", detail, "query:status")])
    return status
