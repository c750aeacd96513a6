"""A lean HTTP/1.1 client: a usual one costs more processor time than the server that it asks."""

import asyncio
from collections import deque
from typing import Any
from urllib.parse import urlsplit

import httptools


class _Connection(asyncio.Protocol):
    """A kept connection with one request under way at most."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: Any = None

    @property
    def closed(self) -> bool:
        return self._transport is None or bool(self._transport.is_closing())

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError(f"the server hung up: {error}"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        answer, self._answer = self._answer, None
        body = b"".join(self._body)
        status = self._parser.get_status_code()
        self._body.clear()
        self._parser = httptools.HttpResponseParser(self)
        if answer is not None and not answer.done():
            answer.set_result((status, body))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class HttpClient:
    """Asks one server; as many connections as requests are under way, kept for the next ones."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        sent = {"host": f"{self.host}:{self.port}", "content-type": "application/json", **(headers or {})}
        self.head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        self._free: deque[_Connection] = deque()

    async def ask(self, method: str, path: str, body: bytes = b"", more: str = "") -> tuple[int, bytes]:
        """The status and the body of the answer; `more` holds further header lines, each with its line end."""
        connection = self._free.pop() if self._free else None
        if connection is None or connection.closed:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, self.host, self.port)
        head = f"{method} {path} HTTP/1.1\r\n{self.head}{more}content-length: {len(body)}\r\n\r\n"
        answer = await connection.ask(head.encode() + body)
        self._free.append(connection)
        return answer

    def close(self) -> None:
        while self._free:
            self._free.pop().close()
