"""The outside world of the gallery: one local HTTP server that plays every system the workflows talk to.

A workflow's `https://crm.example/leads` is `/crm/leads` here. What each system answers is set by the test; every
request is remembered.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from tests.api.live import serving


@dataclass(frozen=True)
class Call:
    """A request that came. `body` is its JSON."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Answer:
    """What to answer: a status, a JSON body, headers."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


Reply: TypeAlias = Answer | Callable[[Call], Answer]


def ok(body: Any = None) -> Answer:
    return Answer(200, body)


def broken(status: int = 503, **headers: str) -> Answer:
    """The system is down."""
    return Answer(status, {"error": "out of order"}, {name.replace("_", "-"): value for name, value in headers.items()})


class World:
    """Answers by route, such as `GET /crm/*`: that set last, if several fit; its last answer again and again."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[Call] = []
        self._replies: dict[str, list[Reply]] = {}
        self._changed = asyncio.Condition()
        self._held: dict[str, asyncio.Event] = {}

    def on(self, route: str, *replies: Reply) -> None:
        """Set what a route answers from now on, one after the other."""
        others = {name: given for name, given in self._replies.items() if name != route}
        self._replies = {route: list(replies), **others}

    def hold(self, route: str) -> asyncio.Event:
        """Answer a route only once the event is set."""
        return self._held.setdefault(route, asyncio.Event())

    def made(self, route: str) -> list[Call]:
        """The requests of a route, in the order they came."""
        return [call for call in self.calls if fnmatchcase(call.route, route)]

    async def until(self, route: str, count: int = 1) -> None:
        """Wait until so many requests of a route have come."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.made(route)) >= count)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As an ASGI application."""
        if scope["type"] != "http":
            return
        call = await _read(scope, receive)
        async with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
        for route, released in self._held.items():
            if fnmatchcase(call.route, route):
                await released.wait()
        answer = self._answer(call)
        body = b"" if answer.body is None else json.dumps(answer.body).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **answer.headers}
        listed = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": listed})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, call: Call) -> Answer:
        for route, replies in self._replies.items():
            if fnmatchcase(call.route, route):
                reply = replies.pop(0) if len(replies) > 1 else replies[0]
                return reply if isinstance(reply, Answer) else reply(call)
        return Answer(404, {"error": f"nothing at {call.route}"})


async def _read(scope: Any, receive: Any) -> Call:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    query = dict(parse_qsl(scope["query_string"].decode()))
    return Call(scope["method"], scope["path"], query, headers, json.loads(body) if body else None)


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    """A running world in which nothing answers yet."""
    world = World()
    async with serving(world) as url:  # type: ignore[arg-type]
        world.url = url
        yield world
