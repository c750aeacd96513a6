"""A context that remembers what a step said, and servers on loopback that answer as the test says."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
import pytest

from app import clock
from app.domain.errors import StepError
from app.domain.jsontext import JSON
from app.settings import Settings
from app.steps.addresses import egress_rule
from app.steps.outbound import Outbound, OutboundRequest, OutboundResponse, system_resolver
from app.steps.registry import StepRegistry, default_registry

Handler = Callable[["Received", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LOOPBACK = "127.0.0.1"
OTHER_LOOPBACK = "127.0.0.2"


@dataclass
class SpyContext:
    execution_id: str = "exec_1"
    step_id: str = "step"
    org_id: str = "org_1"
    attempt: int = 1
    idempotency_key: str = "key-1"
    hops: int = 0
    cancelled: bool = False
    said: list[tuple[Any, ...]] = field(default_factory=list)
    tokens: int = 0
    cost: float = 0.0

    def spend(self, *, tokens: int = 0, cost: float = 0.0) -> None:
        self.tokens += tokens
        self.cost += cost

    def now(self) -> datetime:
        return clock.now()

    def log(self, message: str, level: str = "info") -> None:
        self.said.append(("log", level, message))

    def progress(self, fraction: float, message: str = "") -> None:
        self.said.append(("progress", fraction, message))

    def token(self, text: str) -> None:
        self.said.append(("token", text))

    def tool_call(self, name: str, arguments: JSON) -> None:
        self.said.append(("tool_call", name, arguments))

    @property
    def text(self) -> str:
        return "".join(words[1] for words in self.said if words[0] == "token")


@dataclass
class Received:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class LocalServer:
    port: int
    host: str
    connections: int = 0
    requests: list[Received] = field(default_factory=list)

    def url(self, path: str = "/", scheme: str = "http") -> str:
        return f"{scheme}://{self.host}:{self.port}{path}"


@asynccontextmanager
async def serve(
    handler: Handler, host: str = LOOPBACK, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[LocalServer]:
    """A raw HTTP/1.1 server; the handler writes the bytes. Handlers are cancelled and awaited at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        local.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                while True:
                    request = await _receive(reader)
                    local.requests.append(request)
                    await handler(request, reader, writer)
                    await writer.drain()
            with suppress(ConnectionError, ssl.SSLError):
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(talk(reader, writer))
        tasks.add(task)

    server = await asyncio.start_server(accept, host, port, ssl=tls)
    local = LocalServer(server.sockets[0].getsockname()[1], host)
    try:
        yield local
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _receive(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, target, headers, body)


def answer(status: int = 200, body: bytes = b"", *headers: tuple[str, str], length: int | None = None) -> bytes:
    """The bytes of a response; its Content-Length may lie."""
    lines = [f"HTTP/1.1 {status} Anything", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def always(response: bytes) -> Handler:
    async def handler(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response)

    return handler


def redirect_to(location: str, status: int = 302) -> Handler:
    return always(answer(status, b"", ("Location", location)))


def settings(*ports: int, cidrs: Sequence[str] = (f"{LOOPBACK}/32",), **more: Any) -> Settings:
    values = {"egress_allow_cidrs": list(cidrs), "egress_ports": list(ports) or [80, 443], "openai_api_key": None}
    return Settings(_env_file=None, **{**values, **more})


@asynccontextmanager
async def steps(
    *ports: int, cidrs: Sequence[str] = (f"{LOOPBACK}/32",), resolver: Any = system_resolver, **more: Any
) -> AsyncIterator[StepRegistry]:
    """A registry that may reach 127.0.0.1 on these ports."""
    registry = default_registry(settings(*ports, cidrs=cidrs, **more), resolver=resolver)
    try:
        yield registry
    finally:
        await registry.aclose()


@asynccontextmanager
async def door(
    *ports: int,
    cidrs: Sequence[str] = (f"{LOOPBACK}/32",),
    resolver: Any = system_resolver,
    own_port: int | None = None,
) -> AsyncIterator[Outbound]:
    """A door that may reach 127.0.0.1 on these ports."""
    outbound = Outbound(egress_rule(cidrs, ports), resolver=resolver, own_port=own_port)
    try:
        yield outbound
    finally:
        await outbound.aclose()


async def get(
    outbound: Outbound, url: str, method: str = "GET", headers: Any = (), content: bytes = b"", **more: Any
) -> OutboundResponse:
    more = {"timeout": 20.0, "max_bytes": 100_000, **more}
    return await outbound.send(OutboundRequest(method, url, httpx.Headers(list(headers)), content, **more))


async def code_of(call: Awaitable[Any]) -> str:
    with pytest.raises(StepError) as caught:
        await call
    return caught.value.error_code
