"""Failure groups: executions that failed in the same way, and retrying them together."""

from typing import Annotated

from fastapi import Body, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import Require, ServicesDep, demand
from app.api.pagination import Cursor, Limit, page_answer
from app.api.responses import NO_STORE, Json
from app.api.routing import problems
from app.api.routing import router as resource_router
from app.api.v1.schemas.control import BulkAnswer, bulk_view
from app.api.v1.schemas.insight import (
    FailureGroupDetail,
    FailurePage,
    RetryFailures,
    failure_group_view,
    failure_view,
)
from app.api.v1.schemas.moments import Moment
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.db.queries.executions import ExecutionFilter
from app.db.queries.failures import FailureFilter
from app.services.bulk import BulkRequest

router = resource_router("/failures", "Understanding")

CanRead = Annotated[Caller, Depends(Require(Permission.EXECUTIONS_READ))]
CanControl = Annotated[Caller, Depends(Require(Permission.EXECUTIONS_CONTROL))]


@router.get(
    "",
    operation_id="listFailures",
    summary="List failure groups, the newest first",
    response_model=FailurePage,
    responses=problems("validation_error", "invalid_cursor"),
)
async def list_failures(
    request: Request,
    services: ServicesDep,
    caller: CanRead,
    workflow_id: Annotated[str | None, Query(max_length=64)] = None,
    created_after: Annotated[Moment | None, Query(description="Count executions created since then only.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Failed executions by fingerprint: same workflow, step, code and message, ids and numbers aside."""
    scope = f"{caller.org_id}:failures"
    before = request.app.state.cursors.read(cursor, scope)
    wanted = FailureFilter(workflow_id, created_after)
    rows = await services.insight.failures(caller, wanted, before=before, limit=limit + 1)
    return page_answer(
        request, rows, limit, view=failure_view, position=lambda row: row["latest_execution_id"], scope=scope
    )


@router.get(
    "/{fingerprint}",
    operation_id="getFailure",
    summary="Read a failure group with its newest executions",
    response_model=FailureGroupDetail,
    responses=problems("not_found"),
)
async def get_failure(services: ServicesDep, caller: CanRead, fingerprint: str) -> Response:
    """The group over all time, with its newest executions: at most 20."""
    return Json(failure_group_view(await services.insight.failure(caller, fingerprint)), headers=NO_STORE)


@router.post(
    "/{fingerprint}/retry",
    operation_id="retryFailures",
    summary="Retry all executions of a failure group",
    response_model=BulkAnswer,
    responses=problems(
        "not_found", "count_changed", "too_many_matches", "validation_error", "invalid_json", "unsupported_media_type"
    ),
)
async def retry_failures(
    services: ServicesDep,
    caller: CanControl,
    fingerprint: str,
    body: Annotated[
        RetryFailures | None,
        Body(
            openapi_examples={
                "preview": {"summary": "How many would it be?", "value": {"dry_run": True}},
                "retry": {"summary": "Retry them, if they are still 12", "value": {"expected_count": 12}},
            }
        ),
    ] = None,
) -> Response:
    """Those that were not retried yet; a new execution of each, which needs `executions.execute` too.

    The same as `POST /executions/bulk` with the fingerprint as filter.
    """
    await demand(caller, Permission.EXECUTIONS_EXECUTE, services)
    await services.insight.failure(caller, fingerprint)
    given = body or RetryFailures()
    wanted = ExecutionFilter(fingerprint=fingerprint)
    request = BulkRequest("retry", wanted, given.reason, given.dry_run, given.expected_count)
    return Json(bulk_view(await services.bulk.apply(caller, request)))
