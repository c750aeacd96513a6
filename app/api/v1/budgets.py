"""Budgets of the day: of a workflow, and of the organisation."""

from typing import Annotated

from fastapi import Body, Depends
from starlette.responses import Response

from app.api import routing
from app.api.deps import Require, ServicesDep
from app.api.responses import NO_STORE, Json
from app.api.routing import problems
from app.api.v1.schemas.budgets import DayBudget, DayBudgetList, SetDayBudget, day_budget_view
from app.auth.permissions import Permission
from app.auth.principal import Caller

router = routing.router("/budgets", "Budgets")

CanRead = Annotated[Caller, Depends(Require(Permission.METRICS_READ))]
CanWrite = Annotated[Caller, Depends(Require(Permission.BUDGETS_WRITE))]
Limits = Annotated[
    SetDayBudget,
    Body(openapi_examples={"cost": {"value": {"max_cost": 20.0}}, "time": {"value": {"max_duration": "8h"}}}),
]
_BODY_PROBLEMS = ("validation_error", "invalid_json", "unsupported_media_type")


@router.get(
    "",
    operation_id="listBudgets",
    summary="List the budgets of the day",
    response_model=DayBudgetList,
    responses=problems(),
)
async def list_budgets(services: ServicesDep, caller: CanRead) -> Response:
    """That of the organisation first, each with what today used of it."""
    rows = await services.budgets.list(caller)
    return Json({"data": [day_budget_view(row) for row in rows]}, headers=NO_STORE)


@router.put(
    "/organization",
    operation_id="setOrganizationBudget",
    summary="Limit what the organisation uses on a day",
    response_model=DayBudget,
    responses=problems(*_BODY_PROBLEMS),
)
async def set_organization_budget(services: ServicesDep, caller: CanWrite, body: Limits) -> Response:
    """In place of the budget before. Runs that paused because of it go on when they are resumed."""
    return Json(day_budget_view(await services.budgets.put(caller, None, body)))


@router.delete(
    "/organization",
    operation_id="removeOrganizationBudget",
    summary="Do not limit what the organisation uses",
    status_code=204,
    responses=problems("not_found"),
)
async def remove_organization_budget(services: ServicesDep, caller: CanWrite) -> Response:
    await services.budgets.delete(caller, None)
    return Response(status_code=204)


@router.put(
    "/workflows/{workflow_id}",
    operation_id="setWorkflowBudget",
    summary="Limit what all runs of a workflow use on a day",
    response_model=DayBudget,
    responses=problems("not_found", *_BODY_PROBLEMS),
)
async def set_workflow_budget(services: ServicesDep, caller: CanWrite, workflow_id: str, body: Limits) -> Response:
    """In place of the budget before; that of each single run stands in the definition."""
    return Json(day_budget_view(await services.budgets.put(caller, workflow_id, body)))


@router.delete(
    "/workflows/{workflow_id}",
    operation_id="removeWorkflowBudget",
    summary="Do not limit what a workflow uses",
    status_code=204,
    responses=problems("not_found"),
)
async def remove_workflow_budget(services: ServicesDep, caller: CanWrite, workflow_id: str) -> Response:
    await services.budgets.delete(caller, workflow_id)
    return Response(status_code=204)
