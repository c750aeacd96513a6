"""Who is let in: what is not looked at while the process stops, too large, unreadable, or one too many."""

import re
from collections.abc import Callable

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from app.api.admission import Admission
from app.api.errors import domain_problem
from app.api.headers import headers_of
from app.api.responses import problem
from app.domain.errors import Unavailable

API = "/api/"
_ESCAPED = re.compile(rb"(?:[^%]|%[0-9A-Fa-f]{2})*")


class BodyTooLarge(Exception):
    """More came than the path takes."""


class Gate:
    """Wraps the app. Bodies are read whole, within their limit, before a request takes a place."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        draining: Callable[[], bool],
        max_body: int,
        max_workflow_body: int,
    ) -> None:
        self._app = app
        self._admission = admission
        self._draining = draining
        self._max_body = max_body
        self._max_workflow_body = max_workflow_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._handshake(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        headers, body = headers_of(scope), None
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            try:
                body = await _read(receive, headers.get("content-length", ""), self._limit(scope))
            except BodyTooLarge:
                await self._too_large(scope)(scope, receive, send)
                return
            if body is None:
                return
            receive = _again(body, receive)
        await self._admitted(scope, receive, send, len(body or b""))

    async def _admitted(self, scope: Scope, receive: Receive, send: Send, size: int) -> None:
        if not scope["path"].startswith(API):
            await self._app(scope, receive, send)
            return
        try:
            place = scope["state"]["place"] = self._admission.enter(size)
        except Unavailable as error:
            await _answer(domain_problem(HTTPConnection(scope), error), scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            place.leave()

    async def _handshake(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(refusal, scope, receive, send)
            return
        await self._admitted(scope, receive, send, 0)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to what is not even looked at."""
        path, request_id = scope["path"], scope["state"]["request_id"]
        if self._draining() and path.startswith(API):
            headers = {"Retry-After": "1", "Connection": "close"}
            detail = "This server is stopping; send the request again"
            return problem("draining", detail, instance=path, request_id=request_id, headers=headers)
        raw = scope.get("raw_path") or b""
        if not path.isprintable() or (b"%" in raw and ("\ufffd" in path or not _ESCAPED.fullmatch(raw))):
            detail = "The path has control characters, or is not UTF-8 in %XX"
            return problem("invalid_path", detail, instance="", request_id=request_id)
        return None

    def _too_large(self, scope: Scope) -> Response:
        detail, close = f"The body has more than {self._limit(scope)} bytes", {"Connection": "close"}
        request_id = scope["state"]["request_id"]
        return problem("body_too_large", detail, instance=scope["path"], request_id=request_id, headers=close)

    def _limit(self, scope: Scope) -> int:
        return self._max_workflow_body if scope["path"].startswith("/api/v1/workflows") else self._max_body


async def _read(receive: Receive, declared: str, limit: int) -> bytes | None:
    """The whole body; None if the client left before its end. Raises BodyTooLarge."""
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise BodyTooLarge
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _again(body: bytes, receive: Receive) -> Receive:
    """Receive that gives the body first."""
    given = False

    async def first_the_body() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return first_the_body


async def _answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await response(scope, receive, send)
    else:
        await WebSocket(scope, receive, send).send_denial_response(response)
