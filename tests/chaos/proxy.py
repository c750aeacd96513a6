"""A TCP way to a Postgres that is known to break: slow, dark, cut, or losing one statement or its answer.

It speaks as much of Postgres' protocol as it takes to know a connection by its `application_name` and a statement by a
part of its text. Faults may be for one kind of connection (`of="stepstream-lease"`) or, with None, for all.
"""

import asyncio
import math
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

_ENCRYPTION_REQUESTS = (80877103, 80877104)
_READY = b"Z\x00\x00\x00\x05"
_CHUNK = 1 << 16

Loses = Literal["answer", "question", "neither"]


@dataclass(eq=False)
class Loss:
    """Statements that break their connection: `times` of them, after the first `skip` ones.

    `answer`: once the server has done it. `question`: before the server hears of it. `neither`: nothing breaks, the
    statement waits to be sent until it is `released`. `hits` counts, and each sets `hit`.
    """

    text: bytes
    of: str | None
    loses: Loses
    times: int
    skip: int
    hits: int = 0
    hit: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def strikes(self, statement: bytes, application: str) -> bool:
        if self.text not in statement or self.of not in (None, application) or self.hits >= self.times:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.hits += 1
        self.hit.set()
        return True


class Proxy:
    """Connections to `target`, the server's socket file, that come by `port` of the loopback address.

    `held` and `delayed` count what was kept in the dark or in a stalled connection, and what a slow way took its time
    for.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._connections: set[_Connection] = set()
        self._losses: list[Loss] = []
        self._dark: set[str | None] = set()
        self._light = asyncio.Event()
        self._refuses = False
        self.port = 0
        self.latency = 0.0
        self.bandwidth = math.inf
        self.held = 0
        self.delayed = 0

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    def slow_down(self, latency: float = 0.0, bandwidth: float = math.inf) -> None:
        """Seconds that everything takes in each direction, and bytes that pass in a second."""
        self.latency, self.bandwidth = latency, bandwidth

    def darken(self, of: str | None = None) -> None:
        """From now on nothing passes and nobody is told: a network that swallows packets."""
        self._dark.add(of)

    def stall(self, of: str | None = None) -> int:
        """As `darken`, but only for connections there are: who makes a new one gets through; how many."""
        victims = [connection for connection in self._connections if of in (None, connection.application)]
        for connection in victims:
            connection.stalled = True
        return len(victims)

    @property
    def stalled(self) -> bool:
        """Whether there are such connections."""
        return any(connection.stalled for connection in self._connections)

    def refuse(self) -> None:
        """From now on nobody new gets in."""
        self._refuses = True

    def cut(self, of: str | None = None) -> int:
        """Reset connections (RST) in the middle of whatever they do; how many."""
        victims = [connection for connection in self._connections if of in (None, connection.application)]
        for connection in victims:
            connection.reset()
        return len(victims)

    def lose(self, text: str, loses: Loses = "answer", *, of: str | None = None, times: int = 1, skip: int = 0) -> Loss:
        """Lose statements that contain a text; see `Loss`. `COMMIT` is a statement, too."""
        loss = Loss(text.encode(), of, loses, times, skip)
        self._losses.append(loss)
        return loss

    def heal(self) -> None:
        """Everything passes again, at once; what was held back in the dark as well."""
        for loss in self._losses:
            loss.released.set()
        self._losses.clear()
        self._dark.clear()
        self._refuses = False
        self.slow_down()
        for connection in self._connections:
            connection.stalled = False
        self._light.set()
        self._light = asyncio.Event()

    @property
    def applications(self) -> list[str]:
        """The names of all connections there are."""
        return sorted(connection.application for connection in self._connections)

    def loss_of(self, statement: bytes, application: str) -> Loss | None:
        return next((loss for loss in self._losses if loss.strikes(statement, application)), None)

    async def lit(self, connection: "_Connection") -> None:
        """Wait until the connection gets through."""
        while connection.stalled or self._dark & {None, connection.application}:
            self.held += 1
            await self._light.wait()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        if self._refuses:
            connection.reset()
            return
        self._connections.add(connection)
        try:
            await connection.relay(self._target)
        finally:
            self._connections.discard(connection)
            connection.reset()


class _Connection:
    """One client's connection and the one to the server that it stands for."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._client = writer
        self._server: asyncio.StreamWriter | None = None
        self._statements: dict[bytes, bytes] = {}
        self._loses_answer = False
        self.application = ""
        self.stalled = False

    async def relay(self, target: Path) -> None:
        """Carry both directions until one of them ends."""
        with suppress(OSError, asyncio.IncompleteReadError):
            hello = await self._hello()
            await self._proxy.lit(self)
            answers, self._server = await asyncio.open_unix_connection(str(target), limit=_CHUNK)
            self._server.write(hello)
            ways = [asyncio.create_task(self._questions(self._server)), asyncio.create_task(self._answers(answers))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)

    def reset(self) -> None:
        """End both sides at once; the client sees a reset, not an orderly end."""
        if self._server is not None:
            self._server.transport.abort()
        if not self._client.transport.is_closing():
            sock = self._client.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._client.transport.abort()

    async def _hello(self) -> bytes:
        """The message a session begins with; a wish for encryption before it is declined."""
        while True:
            size = await self._reader.readexactly(4)
            body = await self._reader.readexactly(int.from_bytes(size) - 4)
            if int.from_bytes(body[:4]) not in _ENCRYPTION_REQUESTS:
                words = body[4:].split(b"\0")
                self.application = (
                    dict(zip(words[::2], words[1::2], strict=False)).get(b"application_name", b"").decode()
                )
                return size + body
            self._client.write(b"N")

    async def _questions(self, server: asyncio.StreamWriter) -> None:
        wire = _Wire(self._proxy, server)
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readexactly(5)
                body = await self._reader.readexactly(int.from_bytes(head[1:]) - 4)
                await self._proxy.lit(self)
                if (statement := self._begun_by(head[:1], body)) is not None:
                    loss = self._proxy.loss_of(statement, self.application)
                    if loss is not None and loss.loses == "question":
                        return
                    if loss is not None and loss.loses == "neither":
                        await loss.released.wait()
                    self._loses_answer = loss is not None and loss.loses == "answer"
                await wire.carry(head + body)

    def _begun_by(self, kind: bytes, body: bytes) -> bytes | None:
        """The text of the statement that a message executes; None for one that executes nothing."""
        if kind == b"P":
            name, text, *_ = body.split(b"\0", 2)
            self._statements[name] = text
        elif kind == b"B":
            _, name, *_ = body.split(b"\0", 2)
            return self._statements.get(name)
        elif kind == b"Q":
            return body
        return None

    async def _answers(self, server: asyncio.StreamReader) -> None:
        wire, lost = _Wire(self._proxy, self._client), b""
        with suppress(OSError):
            while data := await server.read(_CHUNK):
                await self._proxy.lit(self)
                if not self._loses_answer:
                    await wire.carry(data)
                    continue
                lost = (lost + data)[-6:]
                if lost.startswith(_READY):  # it is done, and now nobody hears of it
                    return


class _Wire:
    """One direction of a connection, with the delay of its proxy."""

    def __init__(self, proxy: Proxy, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writer = writer
        self._due = 0.0

    async def carry(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        earliest = max(now + self._proxy.latency, self._due) + len(data) / self._proxy.bandwidth
        if earliest <= now:
            self._writer.write(data)
            await self._writer.drain()
            return
        self._proxy.delayed += 1
        self._due = math.nextafter(earliest, math.inf)  # timers of one moment keep no order
        loop.call_at(self._due, self._writer.write, data)


@asynccontextmanager
async def proxy(target: Path) -> AsyncIterator[Proxy]:
    """A proxy that lets everything through until told otherwise."""
    made = Proxy(target)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await made.accept(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=_CHUNK)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        made.heal()
        made.cut()
        if tasks:
            await asyncio.wait([*tasks])
        await server.wait_closed()
