"""Step types: what definitions may use in this deployment."""

from typing import Annotated

from fastapi import Depends
from starlette.responses import Response

from app.api.deps import Require, ServicesDep
from app.api.responses import Json
from app.api.routing import problems
from app.api.routing import router as resource_router
from app.api.v1.schemas.step_types import StepTypeList, StepTypeOut, step_type_view
from app.auth.permissions import Permission
from app.auth.principal import Caller

router = resource_router("/step-types", "Step types")

CanRead = Annotated[Caller, Depends(Require(Permission.WORKFLOWS_READ))]


@router.get(
    "",
    operation_id="listStepTypes",
    summary="List step types",
    response_model=StepTypeList,
    responses=problems(),
)
async def list_step_types(services: ServicesDep, _caller: CanRead) -> Response:
    """All types with the JSON Schema of their settings; the list has no further pages."""
    data = [step_type_view(spec) for spec in services.workflows.step_types()]
    return Json({"data": data, "next_cursor": None, "has_more": False})


@router.get(
    "/{step_type}",
    operation_id="getStepType",
    summary="Read a step type",
    response_model=StepTypeOut,
    responses=problems("not_found"),
)
async def get_step_type(services: ServicesDep, _caller: CanRead, step_type: str) -> Response:
    """One type by its name, such as `http.request`."""
    return Json(step_type_view(services.workflows.step_type(step_type)))
