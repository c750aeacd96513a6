"""A subscriber that asks for events and never reads them."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from tests.chaos.cluster import App

RECEIVED_BYTES = 2_048


@asynccontextmanager
async def deaf_reader(app: App, execution_id: str, token: str) -> AsyncIterator[None]:
    """A stream of an execution's events, with next to no room for what comes, of which only the first word is read."""
    url = httpx.URL(app.api)
    taken = socket.socket()
    taken.setblocking(False)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED_BYTES)
    await asyncio.get_running_loop().sock_connect(taken, (url.host, url.port))
    reader, writer = await asyncio.open_connection(sock=taken, limit=1)
    try:
        writer.write(
            f"GET {url.path}/executions/{execution_id}/events HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n"
            f"Accept: text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        status = await reader.readexactly(12)
        assert status in (b"HTTP/1.1 200", b"HTTP/1.1 503"), status
        yield
    finally:
        writer.transport.abort()
