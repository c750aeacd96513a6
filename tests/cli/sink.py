"""The outside world: an HTTP server that remembers every effect steps have on it, and can keep them waiting."""

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

ANSWER = b'HTTP/1.1 %d Said\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"ok":true}'
KEY = re.compile(rb"\r\nidempotency-key: *([^\r]+)", re.IGNORECASE)


class Sink:
    """Counts the requests for each path, which have no body, and collects their idempotency keys.

    `holds` says which are not answered before `release`, `status` what the others are answered with.
    """

    def __init__(self) -> None:
        self.port = 0
        self.effects: Counter[str] = Counter()
        self.held: set[str] = set()
        self.keys: defaultdict[str, set[str]] = defaultdict(set)
        self.status: Callable[[str], int] = lambda _path: 200
        self.holds: Callable[[str], bool] = lambda _path: False
        self._released = asyncio.Event()
        self._changed = asyncio.Condition()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What lets steps reach the sink."""
        return {"STEPSTREAM_EGRESS_ALLOW_CIDRS": "127.0.0.0/8", "STEPSTREAM_EGRESS_PORTS": str(self.port)}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true of the sink."""
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(condition)

    def hold(self, path: str) -> None:
        """Keep the answers for a path back from now on."""
        self._released = asyncio.Event()
        self.holds = lambda other: other == path

    def release(self) -> None:
        """Answer everything that is held, and hold nothing any more."""
        self._released.set()

    async def quiet(self) -> None:
        """Wait until all clients are gone."""
        await self.until(lambda: not self._connections)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    path = head.split(b" ")[1].decode()
                    self.keys[path] |= {key.decode() for key in KEY.findall(head)}
                    status = self.status(path)
                    await self._effect(path)
                    writer.write(ANSWER % status)
                    await writer.drain()
        finally:
            writer.close()
            async with self._changed:
                self._connections.discard(task)
                self._changed.notify_all()

    async def _effect(self, path: str) -> None:
        async with self._changed:
            self.effects[path] += 1
            held = not self._released.is_set() and self.holds(path)
            if held:
                self.held.add(path)
            self._changed.notify_all()
        if held:
            await self._released.wait()

    async def close(self) -> None:
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)


@asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    """A running sink."""
    made = Sink()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()
        await server.wait_closed()
