"""Understanding an execution: why it is not moving, how it differs, where the time went, which way it took."""

from typing import Annotated

from fastapi import Depends
from starlette.responses import Response

from app.api.deps import Require, ServicesDep
from app.api.responses import NO_STORE, Json
from app.api.routing import problems
from app.api.routing import router as resource_router
from app.api.v1.schemas.insight import (
    DiffOut,
    ExplanationOut,
    GraphOut,
    TimelineOut,
    diff_view,
    explanation_view,
    graph_view,
    timeline_view,
)
from app.auth.permissions import Permission
from app.auth.principal import Caller

router = resource_router("/executions", "Understanding")

CanRead = Annotated[Caller, Depends(Require(Permission.EXECUTIONS_READ))]


@router.get(
    "/{execution_id}/explain",
    operation_id="explainExecution",
    summary="Why an execution is not moving",
    response_model=ExplanationOut,
    responses=problems("not_found"),
)
async def explain_execution(services: ServicesDep, caller: CanRead, execution_id: str) -> Response:
    """A code, a sentence, what must move first, and when it moves by itself if that is known.

    There is an answer for every execution; one that has ended answers `ended` with its outcome.
    """
    return Json(explanation_view(await services.insight.explain(caller, execution_id)), headers=NO_STORE)


@router.get(
    "/{execution_id}/diff",
    operation_id="diffExecutionWithLastSuccess",
    summary="How an execution differs from the last success",
    response_model=DiffOut,
    responses=problems("not_found", "nothing_to_compare"),
)
async def diff_with_last_success(services: ServicesDep, caller: CanRead, execution_id: str) -> Response:
    """Left is the newest COMPLETED execution of the same workflow before this one (of the thousand before it), right
    is this one."""
    return Json(diff_view(await services.insight.diff_with_last_success(caller, execution_id)), headers=NO_STORE)


@router.get(
    "/{execution_id}/diff/{other}",
    operation_id="diffExecutions",
    summary="How two executions differ",
    response_model=DiffOut,
    responses=problems("not_found"),
)
async def diff_executions(services: ServicesDep, caller: CanRead, execution_id: str, other: str) -> Response:
    """Left is `execution_id`, right is `other`; they need not be of one workflow.

    Large payloads, and all of them without the permission `payloads.read`, are only said to differ, and long patches
    are cut: `cut` names them.
    """
    return Json(diff_view(await services.insight.diff(caller, execution_id, other)), headers=NO_STORE)


@router.get(
    "/{execution_id}/timeline",
    operation_id="getExecutionTimeline",
    summary="Where the time of an execution went",
    response_model=TimelineOut,
    responses=problems("not_found"),
)
async def get_timeline(services: ServicesDep, caller: CanRead, execution_id: str) -> Response:
    """Queueing, attempts, backoff, waits and pauses, the whole run's own first and then by step."""
    return Json(timeline_view(await services.insight.timeline(caller, execution_id)), headers=NO_STORE)


@router.get(
    "/{execution_id}/graph",
    operation_id="getExecutionGraph",
    summary="The graph of an execution and the way it took",
    response_model=GraphOut,
    responses=problems("not_found"),
)
async def get_graph(services: ServicesDep, caller: CanRead, execution_id: str) -> Response:
    """Every step of the definition with its status, and every edge: taken, not taken, or not decided yet."""
    return Json(graph_view(await services.insight.graph(caller, execution_id)), headers=NO_STORE)
