"""A lean WebSocket client that notes when each message arrives."""

import asyncio
import base64
from time import perf_counter
from typing import Any

from app import clock
from app.bench.http_client import HttpClient

_TEXT, _CLOSE, _PING = 1, 8, 9
_EMPTY_PONG = b"\x8a\x80\x00\x00\x00\x00"


class Subscriber(asyncio.Protocol):
    """One WebSocket; `arrivals` are by `time.perf_counter`, `texts` what came, if they are kept."""

    def __init__(self, head: bytes, *, keeps_texts: bool) -> None:
        self.arrivals: list[float] = []
        self.texts: list[bytes] = []
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._head = head
        self._keeps_texts = keeps_texts
        self._buffer = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._head)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionResetError(f"the server hung up: {error}"))
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        self._buffer += data
        if not self.opened.done() and not self._opens():
            return
        while (frame := self._frame()) is not None:
            opcode, payload = frame
            if opcode == _TEXT:
                self.arrivals.append(now)
                if self._keeps_texts:
                    self.texts.append(payload)
            elif opcode == _PING:
                self._transport.write(_EMPTY_PONG if not payload else _pong(payload))
            elif opcode == _CLOSE:
                self._transport.close()

    def close(self) -> None:
        self._transport.close()

    def _opens(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        if self._buffer.startswith(b"HTTP/1.1 101"):
            self.opened.set_result(None)
        else:
            self.opened.set_exception(ConnectionError(f"no WebSocket: {bytes(self._buffer[:500])!r}"))
        del self._buffer[: end + 4]
        return True

    def _frame(self) -> tuple[int, bytes] | None:
        """The next whole frame; servers send them unmasked and, at this size, in one piece."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, begin = buffer[1] & 127, 2
        if size >= 126:
            begin = 4 if size == 126 else 10
            size = int.from_bytes(buffer[2:begin])
        if len(buffer) < begin + size:
            return None
        payload = bytes(buffer[begin : begin + size])
        opcode = buffer[0] & 15
        del buffer[: begin + size]
        return opcode, payload


async def subscribe(client: HttpClient, path: str, count: int) -> list[Subscriber]:
    """So many WebSockets to the server of a client, with its headers; the first keeps what it is sent."""
    subscribers: list[Subscriber] = []
    gate = asyncio.Semaphore(20)

    async def one(number: int) -> None:
        key = base64.b64encode(clock.random_bytes(16)).decode()
        head = (
            f"GET {path} HTTP/1.1\r\n{client.head}connection: Upgrade\r\nupgrade: websocket\r\n"
            f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
        ).encode()
        async with gate:
            _, subscriber = await asyncio.get_running_loop().create_connection(
                lambda: Subscriber(head, keeps_texts=number == 0), client.host, client.port
            )
            await subscriber.opened
        subscribers.append(subscriber)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
    return subscribers


def _pong(payload: bytes) -> bytes:
    return bytes((0x8A, 0x80 | len(payload))) + bytes(4) + payload
