"""The outside world: an HTTP server that remembers every effect steps have on it, and can keep them waiting."""

import asyncio
import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar

Call = TypeVar("Call", bound=Hashable)
"""What tells one effect from another."""

KEY = re.compile(rb"\r\nidempotency-key: *([^\r]+)", re.IGNORECASE)


class Outside(ABC, Generic[Call]):
    """Counts the effects of each call, which has no body, and collects their idempotency keys.

    `holds` says which are not answered before `release`.
    """

    def __init__(self) -> None:
        self.port = 0
        self.effects: Counter[Call] = Counter()
        self.held: set[Call] = set()
        self.keys: defaultdict[Call, set[str]] = defaultdict(set)
        self.holds: Callable[[Call], bool] = lambda _call: False
        self._released = asyncio.Event()
        self._changed = asyncio.Condition()
        self._connections: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def answer(self, head: bytes) -> bytes:
        """Have the effect of a request, and say what is answered."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What lets steps reach it."""
        return {"STEPSTREAM_EGRESS_ALLOW_CIDRS": "127.0.0.0/8", "STEPSTREAM_EGRESS_PORTS": str(self.port)}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true of it."""
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(condition)

    async def quiet(self) -> None:
        """Wait until all clients are gone."""
        await self.until(lambda: not self._connections)

    def release(self) -> None:
        """Answer everything that is held, and hold nothing any more."""
        self.holds = lambda _call: False
        self._released.set()
        self._released = asyncio.Event()

    async def happens(self, call: Call, head: bytes) -> None:
        """Count an effect, and wait as long as it is held."""
        async with self._changed:
            self.effects[call] += 1
            self.keys[call] |= {key.decode() for key in KEY.findall(head)}
            held = self.holds(call)
            if held:
                self.held.add(call)
            released = self._released
            self._changed.notify_all()
        if held:
            await released.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    writer.write(await self.answer(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        finally:
            writer.close()
            async with self._changed:
                self._connections.discard(task)
                self._changed.notify_all()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Inside, it can be called."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._connections:
                task.cancel()
            if self._connections:
                await asyncio.wait([*self._connections])
            await server.wait_closed()
