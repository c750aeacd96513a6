"""Following an execution: JSON pages, Server-Sent Events, WebSocket. The same events, from any cursor."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Annotated

from fastapi import Depends, Header, Query
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from app.api.deps import Require, ServicesDep, authenticate, demand, refuse_credentials_in
from app.api.errors import domain_problem
from app.api.parameters import Parameters
from app.api.responses import NO_STORE, Json
from app.api.routing import problems, router
from app.api.stream_session import SUBPROTOCOL, StreamSession
from app.api.v1.schemas.executions import EventPage, LogPage
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.domain.errors import Forbidden, Problem, Problems, StepstreamError
from app.domain.log_lines import log_lines
from app.services import Services
from app.streaming.pace import paced
from app.streaming.wire import WireEvent, envelope

events = router("/executions", "Streams")
sockets = router("", "Streams")

PING_SECONDS = 15.0
RETRY_MILLISECONDS = 2_000
EVENT_STREAM = "text/event-stream"
PLAIN = "text/plain"
TICKET_PREFIX = "ticket."
_PARAMETERS = Parameters(single=frozenset({"after"}), repeatable=frozenset(), prefixes=())

CanRead = Annotated[Caller, Depends(Require(Permission.EXECUTIONS_READ))]


@events.get(
    "/{execution_id}/events",
    operation_id="listExecutionEvents",
    summary="Events of an execution: a page, or live",
    response_model=EventPage,
    responses={
        200: {
            "description": "A JSON page, or with `Accept: text/event-stream` the live stream (`id` is the seq)",
            "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
        },
        204: {"description": "Live stream only: nothing will come behind this cursor any more"},
        **problems("not_found", "validation_error", "too_many_streams"),
    },
)
async def list_events(
    request: Request,
    services: ServicesDep,
    caller: CanRead,
    execution_id: str,
    after: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Only events with a higher seq.")] = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 200,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", description="Resumes a live stream.")] = None,
) -> Response:
    """Every event once, in order, without gap. Late or reconnecting readers miss nothing: resume from the last seq."""
    if EVENT_STREAM in request.headers.get("accept", ""):
        return await _live(services, caller, execution_id, _cursor(after, last_event_id))
    found = await services.streams.page(caller, execution_id, after or 0, limit + 1)
    shown = found[:limit]
    last_seq = shown[-1].seq if shown else (after or 0)
    data = [envelope(execution_id, event) for event in shown]
    return Json({"data": data, "last_seq": last_seq, "has_more": len(found) > limit}, headers=NO_STORE)


@events.get(
    "/{execution_id}/logs",
    operation_id="listExecutionLogs",
    summary="The log of an execution",
    response_model=LogPage,
    responses={
        200: {
            "description": "A JSON page, or with `Accept: text/plain` the lines in the human form",
            "content": {PLAIN: {"schema": {"type": "string"}}},
        },
        **problems("not_found", "validation_error"),
    },
)
async def list_logs(
    request: Request,
    services: ServicesDep,
    caller: CanRead,
    execution_id: str,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Only lines of events with a higher seq.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1_000, description="How many events to read.")] = 200,
    step_id: Annotated[
        str | None, Query(max_length=64, description="Only lines of this step and its items, or of one item: `map[3]`.")
    ] = None,
) -> Response:
    """What the run said, told from its events; ask again with `after` = `last_seq`."""
    row = await services.executions.get(caller, execution_id)
    workflow = await services.executions.workflow_of(row)
    name, order = (workflow.definition.name, workflow.order) if workflow else (row["workflow_id"], [])
    found = await services.streams.page(caller, execution_id, after, limit + 1, step_id)
    shown = found[:limit]
    lines = [(event, line) for event in shown for line in log_lines(event, name, order)]
    if PLAIN in request.headers.get("accept", ""):
        text = "".join(f"{line.text(execution_id)}\n" for _, line in lines)
        return Response(text, media_type=PLAIN, headers=NO_STORE)
    return Json(
        {
            "data": [
                {"seq": event.seq, "timestamp": event.timestamp, "level": line.level, "scope": line.scope,
                 "message": line.message}
                for event, line in lines
            ],
            "last_seq": shown[-1].seq if shown else after,
            "has_more": len(found) > limit,
        },
        headers=NO_STORE,
    )  # fmt: skip


class EventStream(StreamingResponse):
    """A live stream: it holds one of the caller's streams and none of the places of requests."""

    def __init__(self, content: AsyncGenerator[str, None], place: AbstractContextManager[None]) -> None:
        headers = NO_STORE | {"X-Accel-Buffering": "no"}
        super().__init__(content, media_type=EVENT_STREAM, headers=headers)
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            scope["state"]["place"].leave()
            await super().__call__(scope, receive, send)


async def _live(services: Services, caller: Caller, execution_id: str, after: int) -> Response:
    streams = services.streams
    status = await streams.check(caller.org_id, execution_id, after)
    if status.terminal and not await streams.page(caller, execution_id, after, 1):
        return Response(status_code=204)
    batches = paced(streams.follow(caller, execution_id, after, status), PING_SECONDS, streams.draining)
    return EventStream(_sse(batches, after, streams.draining), streams.place(caller))


async def _sse(
    batches: AsyncGenerator[Sequence[WireEvent] | None, None], cursor: int, draining: asyncio.Event
) -> AsyncGenerator[str, None]:
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    try:
        async for batch in batches:
            if batch is None:
                yield ": ping\n\n"
            else:
                yield "".join(f"id: {event.seq}\ndata: {event.text}\n\n" for event in batch)
                cursor = batch[-1].seq
        if draining.is_set():
            yield f'event: server.draining\ndata: {{"after":{cursor}}}\n\n'
    finally:
        await batches.aclose()


def _cursor(after: int | None, last_event_id: str | None) -> int:
    if after is not None or last_event_id is None:
        return after or 0
    if not last_event_id.isdecimal() or not last_event_id.isascii() or len(last_event_id) > 9:
        detail = "Last-Event-ID is the seq of an event"
        raise Problems(detail, [Problem("invalid_value", detail, "header:Last-Event-ID")])
    return int(last_event_id)


@sockets.websocket("/executions/{execution_id}/stream")
async def stream_execution(websocket: WebSocket, execution_id: str) -> None:
    """Events of one execution from `?after=` on; closes 1000 behind the terminal one."""
    await _serve(websocket, execution_id)


@sockets.websocket("/workflows/stream/{execution_id}")
async def stream_execution_by_workflow_path(websocket: WebSocket, execution_id: str) -> None:
    """The same stream under the path that older clients know."""
    await _serve(websocket, execution_id)


async def _serve(websocket: WebSocket, execution_id: str) -> None:
    services: Services = websocket.app.state.services
    offered = [part.strip() for part in websocket.headers.get("sec-websocket-protocol", "").split(",")]
    with ExitStack() as held:
        try:
            caller = await _admit(websocket, services, execution_id, offered)
            after = _after(websocket)
            status = await services.streams.check(caller.org_id, execution_id, after)
            held.enter_context(services.streams.place(caller))
        except StepstreamError as error:
            await websocket.send_denial_response(domain_problem(websocket, error))
            return
        websocket.scope["state"]["place"].leave()
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        batches = services.streams.follow(caller, execution_id, after, status)
        await StreamSession(websocket, services, caller, execution_id, after).run(batches)


async def _admit(websocket: WebSocket, services: Services, execution_id: str, offered: list[str]) -> Caller:
    """Who connects: by Authorization header, or by a single-use ticket offered as a subprotocol."""
    origin = websocket.headers.get("origin")
    tickets = [word.removeprefix(TICKET_PREFIX) for word in offered if word.startswith(TICKET_PREFIX)]
    if origin is not None and not _origin_allowed(websocket, origin):
        raise Forbidden(f"Pages of {origin[:200]} may not connect", code="origin_not_allowed")
    if not tickets:
        caller = await authenticate(websocket, services)
    else:
        refuse_credentials_in(websocket.query_params)
        if len(tickets) + len(websocket.headers.getlist("authorization")) > 1:
            raise StepstreamError("Send one ticket, or one Authorization header", code="ambiguous_credentials")
        state = websocket.scope["state"]
        principal = await services.tickets.redeem(tickets[0], execution_id, origin)
        caller = Caller(principal, state["ip_address"], state["user_agent"], state["request_id"])
    await demand(caller, Permission.EXECUTIONS_READ, services)
    return caller


def _origin_allowed(connection: HTTPConnection, origin: str) -> bool:
    own = {f"{scheme}://{connection.headers.get('host', '')}" for scheme in ("http", "https")}
    return origin in own or origin in connection.app.state.settings.allowed_origins


def _after(websocket: WebSocket) -> int:
    if (refusal := _PARAMETERS.refusal(websocket.query_params)) is not None:
        raise refusal
    text = websocket.query_params.get("after", "0")
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        detail = "after is the seq of an event, 0 for all"
        raise Problems(detail, [Problem("invalid_value", detail, "query:after")])
    return int(text)
