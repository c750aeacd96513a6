"""The edge of the app, as one plain ASGI middleware: request ids, client facts, slashes, headers, access log."""

import re

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import clock
from app.api.errors import internal_problem
from app.api.headers import RequestHeaders, add_headers, rate_headers

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})
_SECURE = frozenset({"https", "wss"})

log = structlog.get_logger("access")


class Edge:
    """Wraps the app. Sets `state.headers`, `.request_id`, `.ip_address`, `.user_agent` for everything behind it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        _note_client(scope)
        before = structlog.contextvars.bind_contextvars(request_id=scope["state"]["request_id"])
        try:
            await self._serve(scope, receive, send)
        finally:
            structlog.contextvars.reset_contextvars(**before)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = clock.monotonic(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] in _STARTS:
                status = message["status"]
                headers, state = list(message.get("headers", ())), scope["state"]
                add_headers(headers, scope["path"], state["request_id"], secure=scope["scheme"] in _SECURE)
                if standing := state.get("standing"):
                    headers += [(name.encode(), text.encode()) for name, text in rate_headers(standing).items()]
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            if status or scope["type"] != "http":
                raise
            await internal_problem(Request(scope), error)(scope, receive, send_with_headers)
        if scope["type"] == "http":
            milliseconds = round((clock.monotonic() - started) * 1000, 1)
            log.debug("request", method=scope["method"], path=scope["path"], status=status, ms=milliseconds)


def _note_client(scope: Scope) -> None:
    """What records and audit rows keep of a request; the path loses its trailing slash."""
    headers, client = RequestHeaders(scope), scope.get("client")
    scope.setdefault("state", {}).update(
        headers=headers,
        request_id=_request_id(headers),
        ip_address=client[0][:64] if client else None,  # a proxy may have named it
        user_agent=_printable(headers.get("user-agent")),
    )
    _strip_slash(scope)


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else clock.new_id("req")


def _printable(text: str | None) -> str | None:
    return None if text is None else "".join(char for char in text if char.isprintable())[:500]


def _strip_slash(scope: Scope) -> None:
    """`/api/v1/executions/` is `/api/v1/executions`, without a redirect that would drop body or token."""
    path = scope["path"]
    if path.startswith("/api/") and path.endswith("/"):
        scope["path"] = path.rstrip("/")
