"""Listeners that nobody has a reason to call: whoever connects was tricked into it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Canaries:
    """On loopback, IPv4 (`port`) and IPv6 (`port6`), and on a unix socket at `path`."""

    port: int
    port6: int
    path: str
    calls: list[str] = field(default_factory=list)


@asynccontextmanager
async def canaries() -> AsyncIterator[Canaries]:
    """Listening inside the block; `calls` tells every connection that was made."""
    calls: list[str] = []

    async def called(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(str(writer.get_extra_info("sockname")))
        writer.close()

    async with AsyncExitStack() as stack:
        path = str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "canary.sock")
        v4 = await stack.enter_async_context(await asyncio.start_server(called, "127.0.0.1", 0))
        v6 = await stack.enter_async_context(await asyncio.start_server(called, "::1", 0))
        await stack.enter_async_context(await asyncio.start_unix_server(called, path))
        yield Canaries(v4.sockets[0].getsockname()[1], v6.sockets[0].getsockname()[1], path, calls)
