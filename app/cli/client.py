"""A client of the public API, as anybody could write one: REST by httpx, the stream by a WebSocket.

Whatever is cut is taken up again: a start is repeated under its idempotency key, a stream from its last seq.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from app import clock
from app.cli.failures import CommandFailed
from app.domain.events import TERMINAL_TYPES
from app.domain.jsontext import JSON, decode, encode

Event = Mapping[str, Any]
"""One envelope of the stream."""

Value = str | int | Sequence[str]
"""A value of a query string; several for a name that is repeated."""

OnCut = Callable[[str], None]
"""Told why the stream was cut, before it is tried again."""

USER_AGENT = f"stepstream-cli/{version('stepstream')}"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
GIVE_UP_AFTER = 300.0
MAX_BACKOFF = 10.0

_API = "/api/v1"
_ATTEMPTS = 5
_FIRST_BACKOFF = 0.25
_TIMEOUT = 30.0
_PAGE = 200


class Refused(CommandFailed):
    """The server answered with a problem; `status` is the HTTP status."""

    code = "refused"

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


class Client:
    """Talks to one server with one token. Use it in an `async with`."""

    def __init__(self, server: str, token: str) -> None:
        parts = urlsplit(server)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise CommandFailed(f"--server: {server} is not a URL such as http://127.0.0.1:8000")
        self.server = server.rstrip("/")
        self.local = parts.hostname in LOOPBACK
        self._identification = {"Authorization": f"Bearer {token}", "User-Agent": USER_AGENT}
        # A proxy of the environment is for the outside world.
        self._http = httpx.AsyncClient(
            base_url=self.server, headers=self._identification, timeout=_TIMEOUT, trust_env=not self.local
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str, **query: Value) -> dict[str, Any]:
        """The JSON object at a path below /api/v1; raises Refused."""
        return await self._object("GET", path, params=query)

    async def text(self, path: str, media_type: str) -> str:
        """The text form of what is at a path below /api/v1; raises Refused."""
        answer = _accepted(await self._answer("GET", path, headers={"Accept": media_type}))
        if answer.headers.get("content-type", "").partition(";")[0] != media_type:
            raise Refused(f"{self.server} has no {media_type} of it", answer.status_code)
        return answer.text

    async def pages(self, path: str, limit: int, **query: Value) -> dict[str, Any]:
        """The first entries of a list, as many as `limit`, in one page."""
        found: dict[str, Any] = {"data": [], "next_cursor": None, "has_more": True}
        while found["has_more"] and (missing := limit - len(found["data"])) > 0:
            cursor = {"cursor": found["next_cursor"]} if found["next_cursor"] else {}
            page = await self.get(path, limit=min(missing, _PAGE), **query, **cursor)
            found = {**page, "data": found["data"] + page["data"]}
        return found

    async def post(self, path: str, body: JSON, *, repeatable: bool) -> dict[str, Any]:
        """The answer to what is asked at a path below /api/v1; raises Refused.

        Anything is sent under an idempotency key. `repeatable`: the server heeds it there, or asking twice does no
        harm; whatever is not is sent once, and a connection cut meanwhile leaves open whether it was done.
        """
        headers = {"Idempotency-Key": clock.new_id("cli")}
        return await self._object("POST", path, body=body, headers=headers, repeatable=repeatable)

    async def put(self, path: str, body: JSON) -> dict[str, Any]:
        """The answer to a whole new value at a path below /api/v1; raises Refused."""
        return await self._object("PUT", path, body=body)

    async def patch(self, path: str, body: JSON) -> dict[str, Any]:
        """The answer to new values of some fields at a path below /api/v1; raises Refused."""
        return await self._object("PATCH", path, body=body)

    async def delete(self, path: str) -> None:
        """Delete what is at a path below /api/v1; raises Refused."""
        _accepted(await self._answer("DELETE", path, repeatable=False))

    async def save_workflow(self, workflow_id: str, document: dict[str, JSON]) -> dict[str, Any]:
        """Create the workflow, or make the document its next version if it differs; the workflow as saved."""
        path = f"/workflows/{quote(workflow_id, safe='')}"
        found = await self._answer("GET", path)
        if found.status_code == httpx.codes.NOT_FOUND:
            return await self._object("POST", "/workflows", body={**document, "id": workflow_id})
        headers = {"If-Match": _accepted(found).headers["ETag"]}
        return await self._object("PUT", path, body=document, headers=headers)

    async def start(self, workflow_id: str, body: dict[str, JSON]) -> dict[str, Any]:
        """Start an execution, once however often the request has to be sent; the execution as accepted."""
        return await self.post(f"/workflows/{quote(workflow_id, safe='')}/execute", body, repeatable=True)

    async def follow(self, execution_id: str, on_cut: OnCut) -> AsyncGenerator[Event, None]:
        """Every event once, in order, up to the terminal one; raises Refused, or CommandFailed when it stays cut."""
        cursor, failures, cut_at = 0, 0, clock.monotonic()
        while True:
            reason = "the server closed the stream"
            try:
                async with self._socket(execution_id, cursor) as socket:
                    async for text in socket:
                        event = _event(text)
                        if event["seq"] <= cursor:
                            continue
                        cursor, failures = event["seq"], 0
                        yield event
                        if event["type"] in TERMINAL_TYPES:
                            return
                    reason = socket.close_reason or reason
            except InvalidStatus as error:
                reason = _temporary(error)
            except (OSError, WebSocketException, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            if failures == 0:
                cut_at = clock.monotonic()
            elif clock.monotonic() - cut_at > GIVE_UP_AFTER:
                raise CommandFailed(f"The stream of {execution_id} stays cut ({reason}). The run goes on at the server")
            failures += 1
            delay = min(MAX_BACKOFF, _FIRST_BACKOFF * 2 ** min(failures, 10)) * (0.5 + clock.jitter() / 2)
            on_cut(reason)
            await asyncio.sleep(delay)

    def _socket(self, execution_id: str, after: int) -> connect:
        address = f"ws{self.server.removeprefix('http')}{_API}/executions/{quote(execution_id, safe='')}/stream"
        return connect(
            f"{address}?after={after}",
            additional_headers={"Authorization": self._identification["Authorization"]},
            user_agent_header=USER_AGENT,
            compression=None,
            proxy=None if self.local else True,
            max_size=None,
        )

    async def _object(
        self,
        method: str,
        path: str,
        *,
        body: JSON = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Value] | None = None,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        answer = _accepted(
            await self._answer(method, path, body=body, headers=headers, params=params, repeatable=repeatable)
        )
        try:
            found: dict[str, Any] = answer.json()
        except ValueError as error:
            raise Refused(f"{self.server} does not answer like Stepstream does", answer.status_code) from error
        return found

    async def _answer(
        self,
        method: str,
        path: str,
        *,
        body: JSON = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Value] | None = None,
        repeatable: bool = True,
    ) -> httpx.Response:
        """The answer, asked for again while the server says that this may help, or did not say anything."""
        content = None if body is None else encode(body).encode()
        kind = {} if content is None else {"Content-Type": "application/json"}
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer = await self._http.request(
                    method, f"{_API}{path}", content=content, params=params, headers={**kind, **(headers or {})}
                )
            except httpx.TransportError as error:
                if attempt == _ATTEMPTS or not repeatable or isinstance(error, httpx.ConnectError):
                    raise unreachable(self.server, str(error)) from error
            else:
                if attempt == _ATTEMPTS or not _retryable(answer):
                    return answer
            await asyncio.sleep(_FIRST_BACKOFF * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


async def demand_server(server: str) -> None:
    """Raise CommandFailed unless something answers there."""
    local = urlsplit(server).hostname in LOOPBACK
    async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=not local) as http:
        try:
            await http.get(f"{server.rstrip('/')}/health/live")
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise unreachable(server, str(error)) from error


def unreachable(server: str, reason: str) -> CommandFailed:
    """What to say when nothing answers."""
    return CommandFailed(
        f"No answer from {server} ({reason}). Start a server with `stepstream up`, or name it: --server"
    )


def _event(text: str | bytes) -> Event:
    event: Any = decode(text)
    return dict(event)


def _accepted(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    raise Refused(_problem_text(answer), answer.status_code)


def _retryable(answer: httpx.Response) -> bool:
    return not answer.is_success and bool(_problem(answer).get("retryable"))


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _problem_text(answer: httpx.Response) -> str:
    problem = _problem(answer)
    detail = str(problem.get("detail") or problem.get("title") or "")
    if not detail:
        return f"{answer.url} answered {answer.status_code}: is that a Stepstream server?"
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return f"{detail.rstrip('.')}. Give a valid token: --token, STEPSTREAM_TOKEN"
    errors = problem.get("errors") or []
    told = [(each.get("pointer") or "/", str(each.get("detail"))) for each in errors]
    more = [f"  {pointer}: {said}" for pointer, said in told if detail not in {said, f"{pointer}: {said}"}]
    return "\n".join([detail, *more])


def _temporary(error: InvalidStatus) -> str:
    """Why the handshake was refused for now; raises Refused when trying again is no use."""
    response = error.response
    answer = httpx.Response(
        response.status_code,
        headers=list(response.headers.raw_items()),
        content=bytes(response.body or b""),
        request=httpx.Request("GET", "http://stream"),
    )
    if response.status_code < httpx.codes.INTERNAL_SERVER_ERROR and response.status_code != 429:
        raise Refused(_problem_text(answer), response.status_code) from error
    return f"the server answered {response.status_code}"
