"""The HTTP protocol by itself: what never reaches the app, and how it is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from app.cli.serving import Server, bind, configuration, port_of
from app.settings import Settings

SECONDS = 20.0
HOST = b"Host: localhost\r\n"
Result = TypeVar("Result")
GET = b"GET /x HTTP/1.1\r\n" + HOST


@dataclass
class Echo:
    """An app that remembers what reaches it; `hold` keeps its answers back."""

    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    headers: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    free: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            socket = WebSocket(scope, receive, send)
            await socket.accept()
            await socket.send_text(await socket.receive_text())
            await socket.close()
            return
        body, more = b"", True
        while more:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        async with self.arrived:
            self.seen.append((scope["method"], scope["path"], body))
            self.headers.append(list(scope["headers"]))
            self.arrived.notify_all()
        await self.free.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def until(self, count: int) -> None:
        async with asyncio.timeout(SECONDS), self.arrived:
            await self.arrived.wait_for(lambda: len(self.seen) >= count)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


class Wire:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Answer:
        async with asyncio.timeout(SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            line, *fields = head.rstrip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in fields)}
            return Answer(int(line.split()[1]), headers, await self.reader.readexactly(int(headers["content-length"])))

    async def closed(self) -> bytes:
        """What still comes before the other side closes, or resets because something came after that."""
        try:
            async with asyncio.timeout(SECONDS):
                return await self.reader.read()
        except ConnectionResetError:
            return b""

    async def trickling(self, data: bytes, awaited: Coroutine[Any, Any, Result]) -> Result:
        """Send the data again and again, slowly, until what is awaited has come."""
        coming = asyncio.ensure_future(awaited)
        while not coming.done():
            await self.send(data)
            await asyncio.wait({coming}, timeout=0.01)
        return coming.result()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@dataclass
class Guarded:
    app: Echo
    port: int

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Wire(reader, writer)
        finally:
            await hang_up(writer)

    async def ask(self, data: bytes) -> Answer:
        """The answer to some bytes, behind which the server must close."""
        async with self.wire() as wire:
            await wire.send(data)
            answer = await wire.answer()
            assert await wire.closed() == b""
            return answer


@asynccontextmanager
async def guarded(**settings: Any) -> AsyncIterator[Guarded]:
    app = Echo()
    app.free.set()
    config = configuration(app, Settings(_env_file=None, **settings))
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        server = Server(config)
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        await server.listening.wait()
        try:
            yield Guarded(app, port_of(bound))
        finally:
            app.free.set()
            server.should_exit = True
            await serving


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Guarded]:
    async with guarded() as running:
        yield running


REFUSED = {
    "no host": (b"GET /x HTTP/1.1\r\n\r\n", 400, "invalid_host"),
    "no host, old version": (b"GET /x HTTP/1.0\r\n\r\n", 400, "invalid_host"),
    "two hosts": (GET + b"Host: other\r\n\r\n", 400, "invalid_host"),
    "empty host": (b"GET /x HTTP/1.1\r\nHost:\r\n\r\n", 400, "invalid_host"),
    "host with a path": (b"GET /x HTTP/1.1\r\nHost: x/admin?\r\n\r\n", 400, "invalid_host"),
    "host with a user": (b"GET /x HTTP/1.1\r\nHost: a@b\r\n\r\n", 400, "invalid_host"),
    "two names in a host": (b"GET /x HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, "invalid_host"),
    "host beyond ascii": ("GET /x HTTP/1.1\r\nHost: ö\r\n\r\n".encode(), 400, "invalid_host"),
    "length and chunks": (
        b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "invalid_request",
    ),
    "two lengths": (
        b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        400,
        "invalid_request",
    ),
    "signed length": (b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\na", 400, "invalid_request"),
    "coded body": (
        b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        400,
        "invalid_request",
    ),
    "unknown coding": (
        b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        400,
        "invalid_request",
    ),
    "bare line feeds": (b"GET /x HTTP/1.1\nHost: a\n\n", 400, "invalid_request"),
    "a bare line feed": (GET + b"X: y\n\r\n", 400, "invalid_request"),
    "space before the colon": (b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n", 400, "invalid_request"),
    "folded header": (GET + b"X: a\r\n b\r\n\r\n", 400, "invalid_request"),
    "null in a header": (GET + b"X: a\0b\r\n\r\n", 400, "invalid_request"),
    "another version": (b"GET /x HTTP/2.0\r\n" + HOST + b"\r\n", 400, "invalid_request"),
    "http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_request"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid_request"),
    "unknown method": (b"BREW /x HTTP/1.1\r\n" + HOST + b"\r\n", 405, "method_not_allowed"),
    "connect": (b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405, "method_not_allowed"),
    "no path": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400, "invalid_path"),
    "url without a path": (b"GET http://localhost HTTP/1.1\r\n" + HOST + b"\r\n", 400, "invalid_path"),
    "path beyond ascii": ("GET /ö HTTP/1.1\r\n".encode() + HOST + b"\r\n", 400, "invalid_path"),
    "long url": (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "uri_too_long"),
    "endless url": (b"GET /" + b"a" * 500_000, 414, "uri_too_long"),
    "many headers": (GET + b"".join(b"X-%d: y\r\n" % n for n in range(100)) + b"\r\n", 431, "headers_too_large"),
    "large headers": (GET + b"X: %b\r\n\r\n" % (b"a" * 33_000), 431, "headers_too_large"),
    "endless header": (GET + b"X: %b" % (b"a" * 3_000_000), 431, "headers_too_large"),
    "handshake with a long line": (
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nCookie: %b\r\n\r\n" % (b"a" * 9_000),
        431,
        "headers_too_large",
    ),
    "handshake with a long url": (
        b"GET /%b HTTP/1.1\r\n" % (b"a" * 8_150) + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        414,
        "uri_too_long",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_request_is_refused_by_a_problem_and_the_connection_closed(server: Guarded, name: str) -> None:
    data, status, code = REFUSED[name]
    before = len(server.app.seen)
    answer = await server.ask(data)
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == json.loads(answer.body)["request_id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["connection"] == "close"
    assert ("allow" in answer.headers) == (status == 405)
    assert len(server.app.seen) == before


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:80", "[::1]:8000", "a_b.example.com"])
async def test_any_well_formed_host_is_served_by_default(server: Guarded, host: str) -> None:
    async with server.wire() as wire:
        await wire.send(b"GET /x HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode())
        assert (await wire.answer()).status == 200


async def test_only_the_allowed_hosts_are_served() -> None:
    async with guarded(allowed_hosts="Flow.example.com, [::1]") as server:
        for host in ("flow.example.com", "FLOW.example.com:8443", "[::1]:80"):
            async with server.wire() as wire:
                await wire.send(b"GET /x HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode())
                assert (await wire.answer()).status == 200
                await wire.send(b"GET /x HTTP/1.1\r\nHost: evil.example.com\r\n\r\n")
                assert (await wire.answer()).code == "invalid_host"


async def test_a_slow_head_a_slow_body_and_silence_end_in_time() -> None:
    async with guarded(header_timeout=0.2, body_timeout=0.3) as server:
        async with server.wire() as silent:
            assert await silent.closed() == b""
        head, body = (
            await server.ask(b"GET /slow HTT"),
            await server.ask(b"POST /slow HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n12345"),
        )
        assert (head.status, head.code) == (body.status, body.code) == (408, "request_timeout")
        chunked = await server.ask(
            b"POST /slow HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\nTrailer: x"
        )
        assert chunked.status == 408
        assert server.app.seen == []


async def test_a_trickle_does_not_move_the_deadline() -> None:
    async with guarded(header_timeout=0.3) as server, server.wire() as wire:
        await wire.send(b"GET /slow HTTP/1.1\r\n")
        assert (await wire.trickling(b"X", wire.answer())).status == 408


async def test_an_idle_connection_is_kept_for_its_time_and_blank_lines_do_not_extend_it() -> None:
    async with guarded(keep_alive_timeout=1, header_timeout=0.1) as server, server.wire() as wire:
        for _ in range(2):
            await wire.send(GET + b"\r\n")
            assert (await wire.answer()).status == 200
            await wire.send(b"\r\n")
        assert await wire.trickling(b"\r\n", wire.closed()) == b""


async def test_a_slow_answer_is_not_the_clients_fault() -> None:
    async with guarded(header_timeout=0.05, body_timeout=0.05) as server, server.wire() as wire:
        server.app.free.clear()
        await wire.send(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nab")
        await server.app.until(1)
        answer = asyncio.create_task(wire.answer())
        assert await asyncio.wait({answer}, timeout=0.3) == (set(), {answer})
        server.app.free.set()
        assert (await answer).status == 200


async def test_what_follows_an_unanswered_request_does_not_take_its_answer(server: Guarded) -> None:
    """Two bytes behind a body whose length was told too small: the request gets its answer, the bytes get none."""
    server.app.free.clear()
    before = len(server.app.seen)
    async with server.wire() as wire:
        await wire.send(b"POST /short HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nab}}\r\n\r\n")
        await server.app.until(before + 1)
        server.app.free.set()
        assert (await wire.answer()).body == b"ok"
        assert await wire.closed() == b""
    assert server.app.seen[before:] == [("POST", "/short", b"ab")]


async def test_pipelined_requests_are_answered_in_order(server: Guarded) -> None:
    before = len(server.app.seen)
    async with server.wire() as wire:
        await wire.send((GET + b"\r\n") * 3 + b"GET /last HTTP/1.1\r\n")
        await server.app.until(before + 3)
        await wire.send(HOST + b"\r\n")
        assert [(await wire.answer()).status for _ in range(4)] == [200] * 4


async def test_trailers_do_not_become_headers(server: Guarded) -> None:
    before = len(server.app.seen)
    async with server.wire() as wire:
        await wire.send(
            b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
            b"1;extension=x\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
        )
        assert (await wire.answer()).status == 200
    assert server.app.seen[before:] == [("POST", "/x", b"a")]
    assert [name for name, _ in server.app.headers[-1]] == [b"host", b"transfer-encoding"]


async def test_endless_trailers_and_chunk_extensions_are_refused(server: Guarded) -> None:
    head = b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    for endless in (b"0\r\nT: ", b"1;x="):
        assert (await server.ask(head + endless + b"a" * 2_000_000)).code == "headers_too_large"


async def test_another_protocol_is_not_offered_and_what_follows_is_not_read(server: Guarded) -> None:
    before = len(server.app.seen)
    answer = await server.ask(GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n" + GET + b"\r\n")
    assert answer.body == b"ok"
    assert len(server.app.seen) == before + 1


async def test_a_websocket_outlives_the_time_limits_of_requests() -> None:
    async with guarded(header_timeout=0.1, body_timeout=0.1, keep_alive_timeout=1) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/ws") as socket:
            echo = asyncio.create_task(socket.recv())
            assert await asyncio.wait({echo}, timeout=0.4) == (set(), {echo})
            await socket.send("still here")
            assert await echo == "still here"


async def test_silent_clients_keep_nobody_out() -> None:
    """Twice as many silent sockets as there is room for; who has waited longest leaves, who asks is served."""
    async with guarded(max_connections=50) as server:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(100)]
        for reader, writer in silent[:25]:
            writer.write(b"GET /half HTTP/1.1\r\n")
            del reader
        for _ in range(20):
            async with server.wire() as wire:
                await wire.send(GET + b"\r\n")
                assert (await wire.answer()).status == 200
        async with asyncio.timeout(SECONDS):
            await silent[0][0].read()
        for _, writer in silent:
            await hang_up(writer)


async def test_when_everybody_is_being_served_a_newcomer_is_told() -> None:
    async with guarded(max_connections=10) as server:
        server.app.free.clear()
        busy = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(10)]
        for _, writer in busy:
            writer.write(GET + b"\r\n")
        await server.app.until(10)
        async with server.wire() as wire:
            answer = await wire.answer()
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "overloaded", "1")
        server.app.free.set()
        for reader, writer in busy:
            async with asyncio.timeout(SECONDS):
                assert (await reader.readline()).split()[1] == b"200"
            await hang_up(writer)


async def test_unfinished_bodies_hold_bounded_memory() -> None:
    """The oldest of them makes room; a body that arrives whole is served."""
    async with guarded(max_request_bytes=1 << 20) as server:
        head = b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 600000\r\n\r\n"
        async with server.wire() as first, server.wire() as second:
            await first.send(head + b"a" * 599_999)
            await second.send(head + b"b" * 599_999)
            assert (await first.answer()).code == "request_timeout"
            await second.send(b"b")
            assert (await second.answer()).status == 200
