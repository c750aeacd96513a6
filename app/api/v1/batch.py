"""Starting many executions with one request, each as if it had been asked for alone."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated, Any, TypeAlias

import orjson
from fastapi import Body, Depends
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import Require, ServicesDep
from app.api.errors import domain_problem
from app.api.responses import NO_STORE, Json
from app.api.routing import problems, router
from app.api.v1.schemas.batch import Batch, StartBatch, StartOne
from app.api.v1.schemas.executions import execution_view
from app.api.v1.starting import IdempotencyKey, Prefer, idempotency_key, start_request, wait_seconds
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.domain.errors import StepstreamError
from app.services import Services
from app.services.starts import Started, StartRequest
from app.streaming.hub import EndWatch

batch = router("/executions", "Executions")


Came: TypeAlias = Started | StepstreamError
"""What came of one start."""


@batch.post(
    "/batch",
    operation_id="startExecutions",
    summary="Start many executions",
    response_model=Batch,
    responses=problems(
        "invalid_json", "invalid_idempotency_key", "body_too_large", "unsupported_media_type", "validation_error"
    ),
)
async def start_executions(
    request: Request,
    services: ServicesDep,
    caller: Annotated[Caller, Depends(Require(Permission.EXECUTIONS_EXECUTE))],
    body: Annotated[
        StartBatch,
        Body(
            openapi_examples={
                "two": {
                    "summary": "Two, each safe to ask for again",
                    "value": {
                        "executions": [
                            {"workflow_id": "wf_sales", "input": {"city": "Berlin"}, "idempotency_key": "order-1"},
                            {"workflow_id": "wf_sales", "input": {"city": "Paris"}, "idempotency_key": "order-2"},
                        ]
                    },
                }
            }
        ),
    ],
    prefer: Prefer = None,
    _key: IdempotencyKey = None,
) -> Response:
    """At most 100. Each is started, or refused, on its own: a body that is valid is answered with 200 and for each
    execution with the status that `POST /executions` would have given. With `Prefer: wait` all are waited for."""
    key, seconds = idempotency_key(request), wait_seconds(prefer)
    wanted = [_wanted(item, key, index) for index, item in enumerate(body.executions)]
    if seconds is None:
        answers = [_answer(request, came, ended=False) for came in await _start_all(services, caller, wanted)]
    else:
        ends = await _start_and_wait(request, services, caller, wanted, seconds)
        answers = [_answer(request, came, ended=ended) for came, ended in ends]
    return Json({"data": answers}, headers=NO_STORE)


def _wanted(item: StartOne, key: str | None, index: int) -> StartRequest:
    """A key for the whole batch stands for each execution by its place."""
    made = None if key is None else f"{key}:{index}"
    return start_request(item.workflow_id, item, item.idempotency_key or made)


async def _start_all(services: Services, caller: Caller, wanted: Sequence[StartRequest]) -> Sequence[Came]:
    """Those that come together are accepted in few commits."""
    return await asyncio.gather(*(_start(services, caller, each) for each in wanted))


async def _start(services: Services, caller: Caller, wanted: StartRequest) -> Came:
    try:
        return await services.starts.start(caller, wanted)
    except StepstreamError as error:
        return error


async def _start_and_wait(
    request: Request, services: Services, caller: Caller, wanted: Sequence[StartRequest], seconds: float
) -> Sequence[tuple[Came, bool]]:
    """Start all, wait for those that were started, and look how they stand and whether they ended in time."""
    with ExitStack() as watching:
        watches = [watching.enter_context(services.streams.watching_end(each.id)) for each in wanted]
        came = await _start_all(services, caller, wanted)
        with request.scope["state"]["place"].waiting() as may_wait:
            longest = seconds if may_wait else 0.0
            waits = (_ended(services, caller, *each, longest) for each in zip(came, watches, strict=True))
            ended = await asyncio.gather(*waits)
    looked = await asyncio.gather(*(_as_it_is(services, caller, each) for each in came))
    return list(zip(looked, ended, strict=True))


async def _ended(services: Services, caller: Caller, came: Came, watch: EndWatch, seconds: float) -> bool:
    if not isinstance(came, Started):
        return False
    if not came.replayed:
        return await services.streams.until_terminal(caller.org_id, watch, seconds)
    with services.streams.watching_end(came.row["id"]) as earlier:
        earlier.invalidate()
        return await services.streams.until_terminal(caller.org_id, earlier, seconds)


async def _as_it_is(services: Services, caller: Caller, came: Came) -> Came:
    if not isinstance(came, Started):
        return came
    return replace(came, row=await services.executions.get(caller, came.row["id"]))


def _answer(request: Request, came: Came, *, ended: bool) -> dict[str, Any]:
    """As `BatchAnswer` says."""
    if isinstance(came, Started):
        status, execution = 200 if ended else 201, execution_view(came.row)
        return {"status": status, "replayed": came.replayed, "execution": execution, "problem": None}
    refusal = domain_problem(request, came)
    problem = orjson.Fragment(bytes(refusal.body))
    return {"status": refusal.status_code, "replayed": False, "execution": None, "problem": problem}
