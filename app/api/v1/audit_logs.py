"""The audit log: read only."""

from typing import Annotated, Any

from fastapi import Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from app.api import routing
from app.api.deps import Require, ServicesDep
from app.api.pagination import Cursor, Limit, page_answer
from app.api.responses import Json
from app.api.routing import problems
from app.api.v1.schemas.audit_logs import AuditLogPage, AuditVerification, audit_log_view, verification_view
from app.api.v1.schemas.moments import Moment
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.domain.audit_chain import BEGINNING, Head

router = routing.router("/audit-logs", "Audit log")

CanRead = Annotated[Caller, Depends(Require(Permission.AUDIT_READ))]
Name = Annotated[str | None, Query(max_length=200)]
When = Annotated[Moment | None, Query(openapi_examples={"moment": {"value": "2030-01-01T00:00:00Z"}})]

Kept = Annotated[
    str | None,
    Query(
        pattern="^[0-9]{1,18}:([0-9a-f]{64})?$",
        description="A `head` of an earlier answer: verify what is behind it.",
        openapi_examples={"head": {"value": "0:"}},
    ),
]


async def audit_filter(
    action: Annotated[
        str | None, Query(max_length=200, openapi_examples={"run": {"value": "workflow.executed"}})
    ] = None,
    resource_type: Name = None,
    resource_id: Name = None,
    user_id: Name = None,
    success: bool | None = None,
    created_after: When = None,
    created_before: When = None,
) -> dict[str, Any]:
    """The filter in the query string; what is not given narrows nothing."""
    return {
        "action": action,
        "resource_type": resource_type,
        "resource_id": resource_id,
        "user_id": user_id,
        "success": success,
        "created_after": created_after,
        "created_before": created_before,
    }


@router.get(
    "",
    operation_id="listAuditLogs",
    summary="Read the audit log, the newest first",
    response_model=AuditLogPage,
    responses=problems("validation_error", "invalid_cursor"),
)
async def list_audit_logs(
    request: Request,
    services: ServicesDep,
    caller: CanRead,
    filters: Annotated[dict[str, Any], Depends(audit_filter)],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Filter by action, resource, user, outcome and time (from `created_after` on, before `created_before`)."""
    scope = f"{caller.org_id}:audit-logs:position"
    position = request.app.state.cursors.read(cursor, scope)
    before = None if position is None else int(position)
    rows = await services.audit.page(caller, before=before, limit=limit + 1, filters=filters)
    return page_answer(
        request,
        [dict(row) for row in rows],
        limit,
        view=audit_log_view,
        position=lambda row: str(row["position"]),
        scope=scope,
    )


@router.get(
    "/verify",
    operation_id="verifyAuditLog",
    summary="Verify that nothing in the audit log was changed",
    response_model=AuditVerification,
    responses=problems("validation_error"),
)
async def verify_audit_log(services: ServicesDep, caller: CanRead, after: Kept = None) -> Response:
    """Hold the chain of seals against the rows, some 20,000 in one answer, from the beginning or behind a head.

    Rows are sealed within some seconds. A head kept elsewhere shows later, by `after`, that nothing under it was
    rewritten: the whole chain has to be sound and to contain it.
    """
    found = await services.audit.verify(caller, BEGINNING if after is None else Head.named(after))
    return Json(verification_view(found))
