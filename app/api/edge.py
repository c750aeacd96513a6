"""The edge of the app, as one plain ASGI middleware: request ids, client facts, slashes, headers, drain, access log."""

import re
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import clock
from app.api.errors import internal_problem
from app.api.responses import problem

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_API_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_PAGES_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'"
)
_PAGES = ("/docs", "/redoc", "/problems")

log = structlog.get_logger("access")


class Edge:
    """Wraps the app. Sets `state.request_id`, `.ip_address`, `.user_agent` for everything behind it."""

    def __init__(self, app: ASGIApp, *, draining: Callable[[], bool], max_body: int, max_workflow_body: int) -> None:
        self._app = app
        self._draining = draining
        self._max_body = max_body
        self._max_workflow_body = max_workflow_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        _note_client(scope, headers)
        with structlog.contextvars.bound_contextvars(request_id=scope["state"]["request_id"]):
            if scope["type"] == "http":
                await self._serve(scope, headers, receive, send)
            else:
                await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        started, status = clock.monotonic(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), scope["path"], scope["state"]["request_id"])
            await send(message)

        answer = self._refusal(scope, headers) or self._app
        try:
            await answer(scope, _bounded(receive, self._limit(scope)), send_with_headers)
        except Exception as error:
            if status:
                raise
            await internal_problem(Request(scope), error)(scope, receive, send_with_headers)
        milliseconds = round((clock.monotonic() - started) * 1000, 1)
        log.debug("request", method=scope["method"], path=scope["path"], status=status, ms=milliseconds)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that is not even looked at."""
        state, path = scope["state"], scope["path"]
        if self._draining() and path.startswith("/api/"):
            detail, retry = "This server is stopping; send the request again", {"Retry-After": "1"}
            return problem("draining", detail, instance=path, request_id=state["request_id"], headers=retry)
        if not path.isprintable():
            detail = "No path has control characters"
            return problem("not_found", detail, instance="", request_id=state["request_id"])
        declared, limit = headers.get("content-length", "0"), self._limit(scope)
        if declared.isdecimal() and int(declared) > limit:
            detail, close = f"The body has more than {limit} bytes", {"Connection": "close"}
            return problem("body_too_large", detail, instance=path, request_id=state["request_id"], headers=close)
        return None

    def _limit(self, scope: Scope) -> int:
        return self._max_workflow_body if scope["path"].startswith("/api/v1/workflows") else self._max_body


def _bounded(receive: Receive, limit: int) -> Receive:
    """Receive that stops a body over the limit, however it is sent."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > limit:
                raise HTTPException(413, f"The body has more than {limit} bytes", headers={"Connection": "close"})
        return message

    return counted


def _note_client(scope: Scope, headers: Headers) -> None:
    """What records and audit rows keep of a request; the path loses its trailing slash."""
    client = scope.get("client")
    scope.setdefault("state", {}).update(
        request_id=_request_id(headers),
        ip_address=client[0] if client else None,
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


def _add_headers(headers: MutableHeaders, path: str, request_id: str) -> None:
    headers["x-request-id"] = request_id
    for name, value in _API_HEADERS.items():
        headers.setdefault(name, value)
    if path.startswith(_PAGES):
        headers["content-security-policy"] = _PAGES_POLICY
