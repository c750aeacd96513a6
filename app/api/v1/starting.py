"""Answering requests that start an execution, at once or when it has ended."""

import re
from typing import Annotated, Any

from fastapi import Header
from starlette.requests import Request
from starlette.responses import Response

from app.api.responses import NO_STORE, Json
from app.api.routing import problems
from app.api.v1.schemas.executions import Execution, StartOptions, execution_view
from app.auth.principal import Caller
from app.domain.errors import StepstreamError
from app.services import Services
from app.services.starts import Started, StartRequest
from app.streaming.hub import EndWatch

MAX_WAIT_SECONDS = 60.0

_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")

Prefer = Annotated[
    str | None,
    Header(description="`wait=30` waits for the end, at most 60 s.", openapi_examples={"wait": {"value": "wait=30"}}),
]
IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", description="Makes repeating this request safe for 24 hours.")
]

START_PROBLEMS = (
    "not_found", "invalid_json", "invalid_idempotency_key", "invalid_state", "idempotency_in_progress",
    "body_too_large", "unsupported_media_type", "validation_error", "workflow_invalid", "input_schema_mismatch",
    "idempotency_key_reused", "quota_exceeded", "loop_detected",
)  # fmt: skip
START_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": Execution, "description": "With `Prefer: wait` and ended in time: the ended execution"},
    **problems(*START_PROBLEMS),
}


async def start_answer(
    request: Request, services: Services, caller: Caller, workflow_id: str, options: StartOptions, prefer: str | None
) -> Response:
    """Start an execution and answer, by `prefer` with how it ended."""
    wanted = start_request(workflow_id, options, idempotency_key(request))
    seconds = wait_seconds(prefer)
    if seconds is None:
        return _as_accepted(await services.starts.start(caller, wanted))
    with services.streams.watching_end(wanted.id) as watch:
        started = await services.starts.start(caller, wanted)
        if started.replayed:
            return await started_answer(request, services, caller, started, prefer)
        ended = await until_terminal(request, services, caller, watch, seconds)
    return await _as_it_is(services, caller, started, ended=ended)


def start_request(workflow_id: str, options: StartOptions, key: str | None) -> StartRequest:
    """What a client asks for, by what it sent."""
    return StartRequest(
        workflow_id=workflow_id,
        input=options.input,
        labels=options.labels,
        priority=options.priority,
        idempotency_key=key,
        start_at=options.start_at,
        queue_ttl=options.queue_ttl,
        control=options.control(),
    )


async def started_answer(
    request: Request, services: Services, caller: Caller, started: Started, prefer: str | None
) -> Response:
    """201 with the execution as accepted; with `Prefer: wait` the ended one with 200, or 201 when time is up."""
    seconds = wait_seconds(prefer)
    if seconds is None:
        return _as_accepted(started)
    with services.streams.watching_end(started.row["id"]) as watch:
        watch.invalidate()
        ended = await until_terminal(request, services, caller, watch, seconds)
    return await _as_it_is(services, caller, started, ended=ended)


async def until_terminal(request: Request, services: Services, caller: Caller, watch: EndWatch, seconds: float) -> bool:
    """Whether the execution ended in time; where too many wait already, time is up at once."""
    with request.scope["state"]["place"].waiting() as may_wait:
        return may_wait and await services.streams.until_terminal(caller.org_id, watch, seconds)


def _as_accepted(started: Started) -> Response:
    return _started(started, 201, execution_view(started.row))


async def _as_it_is(services: Services, caller: Caller, started: Started, *, ended: bool) -> Response:
    row = await services.executions.get(caller, started.row["id"])
    return _started(started, 200 if ended else 201, execution_view(row))


def _started(started: Started, status: int, body: dict[str, Any]) -> Response:
    headers = {"Location": f"/api/v1/executions/{started.row['id']}"} | NO_STORE
    if started.replayed:
        headers["Idempotency-Replayed"] = "true"
    return Json(body, status, headers=headers)


def wait_seconds(prefer: str | None) -> float | None:
    """How long a client wants to wait; None: not at all."""
    found = _PREFER_WAIT.search(prefer or "")
    return min(float(found[1]), MAX_WAIT_SECONDS) if found else None


def idempotency_key(request: Request) -> str | None:
    """The key that a client sent; raises for one that cannot be used."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= 255 or not keys[0].isascii() or not keys[0].isprintable():
        raise StepstreamError(
            "Send at most one Idempotency-Key, of 1 to 255 printable ASCII characters", code="invalid_idempotency_key"
        )
    return keys[0]
