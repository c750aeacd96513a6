"""Approvals: the inbox of what waits for people, and their decisions."""

from typing import Annotated

from fastapi import Body, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from app.api import routing
from app.api.deps import Require, ServicesDep
from app.api.pagination import Cursor, Limit, page_answer
from app.api.responses import NO_STORE, Json
from app.api.routing import problems
from app.api.v1.schemas.approvals import ApprovalAnswer, ApprovalPage, ApprovalStatus, Decide, approval_view
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.domain.errors import Problem, Problems

router = routing.router("/approvals", "Approvals")

CanRead = Annotated[Caller, Depends(Require(Permission.EXECUTIONS_READ))]
CanDecide = Annotated[Caller, Depends(Require(Permission.APPROVALS_DECIDE))]

_ALL = "ALL"


@router.get(
    "",
    operation_id="listApprovals",
    summary="List approvals, the newest first",
    response_model=ApprovalPage,
    responses=problems("validation_error", "invalid_cursor"),
)
async def list_approvals(
    request: Request,
    services: ServicesDep,
    caller: CanRead,
    statuses: Annotated[
        list[str] | None,
        Query(alias="status", description="Repeatable, any case, or `all`; by default the pending ones."),
    ] = None,
    execution_id: Annotated[str | None, Query(max_length=64)] = None,
    mine: Annotated[bool, Query(description="Only what you may decide and have not decided yet.")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Pending ones by default; `mine=true` is a person's own inbox."""
    scope = f"{caller.org_id}:approvals"
    before = request.app.state.cursors.read(cursor, scope)
    wanted = _statuses(statuses)
    found = await services.approvals.page(caller, wanted, execution_id, mine=mine, before=before, limit=limit + 1)
    return page_answer(
        request, found, limit, view=approval_view, position=lambda approval: str(approval.row["id"]), scope=scope
    )


@router.get(
    "/{approval_id}",
    operation_id="getApproval",
    summary="Read an approval with its form and decisions",
    response_model=ApprovalAnswer,
    responses=problems("not_found"),
)
async def get_approval(services: ServicesDep, caller: CanRead, approval_id: str) -> Response:
    """`verdict` tells what the decisions come to as soon as they are made; `status` follows."""
    return Json(approval_view(await services.approvals.get(caller, approval_id)), headers=NO_STORE)


@router.post(
    "/{approval_id}/decide",
    operation_id="decideApproval",
    summary="Approve or reject",
    response_model=ApprovalAnswer,
    responses=problems(
        "not_found", "not_a_decider", "self_approval", "approval_decided", "already_decided_by_you", "form_mismatch",
        "validation_error", "invalid_json", "unsupported_media_type",
    ),
)  # fmt: skip
async def decide_approval(
    services: ServicesDep,
    caller: CanDecide,
    approval_id: str,
    body: Annotated[
        Decide,
        Body(
            openapi_examples={
                "approve": {"value": {"decision": "approve", "data": {"limit": 5000}}},
                "reject": {"value": {"decision": "reject", "comment": "The invoice is a duplicate"}},
            }
        ),
    ],
) -> Response:
    """One rejection rejects; as many approvals as the quorum approve. A decision is durable when this answers, and
    final: the same again answers the same, another one is refused."""
    decided = await services.approvals.decide(caller, approval_id, body.decision, body.comment, body.data)
    return Json(approval_view(decided), headers=NO_STORE)


def _statuses(words: list[str] | None) -> frozenset[str]:
    """The statuses to show; none: all of them."""
    if words is None:
        return frozenset({ApprovalStatus.PENDING.value})
    found = frozenset(word.upper() for word in words)
    if found - set(ApprovalStatus) - {_ALL}:
        detail = f"status is one of {', '.join(ApprovalStatus)}, or all"
        raise Problems(detail, [Problem("invalid_value", detail, "query:status")])
    return frozenset() if _ALL in found else found
