"""The outside world of chaos: an HTTP server that keeps a line on the disk of every effect steps have on it.

A call is `/<execution>/<step>?k=<key>&h=<hash>`, and its answer the next hash, so that a result tells every step that
led to it. The key names the wish; executions that repair each other share it.
"""

import asyncio
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.chaos.journal import Journal

IDEMPOTENCY = re.compile(rb"\r\nidempotency-key: *([^\r]+)", re.IGNORECASE)


def chained(before: str, *steps: str) -> str:
    """The hash after these steps."""
    for step in steps:
        before = hashlib.sha256(f"{before}/{step}".encode()).hexdigest()[:16]
    return before


class Sink:
    """`effects` counts, and `idempotency_keys` collects, by (execution, step).

    Calls in `refused`, by (key, step), have their effect and are answered with 422. `holds` says which calls, by
    execution and step, get no answer before `release`.
    """

    def __init__(self, journal: Journal) -> None:
        self.effects: Counter[tuple[str, str]] = Counter()
        self.idempotency_keys: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self.refused: set[tuple[str, str]] = set()
        self.holds: Callable[[str, str], bool] = lambda _execution, _step: False
        self.held: set[tuple[str, str]] = set()
        self.port = 0
        self._journal = journal
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

    def release(self) -> None:
        """Answer everything that is held, and hold nothing any more."""
        self.holds = lambda _execution, _step: False
        self._released.set()
        self._released = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true of the sink."""
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(condition)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    writer.write(await self._answer(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        target = urlsplit(head.split(b" ")[1].decode())
        _, execution, step = target.path.split("/", 2)
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        self._journal.write(execution=execution, step=step, key=query["k"])
        async with self._changed:
            self.effects[execution, step] += 1
            self.idempotency_keys[execution, step] |= {key.decode() for key in IDEMPOTENCY.findall(head)}
            held = self.holds(execution, step)
            if held:
                self.held.add((execution, step))
            self._changed.notify_all()
        if held:
            await self._released.wait()
        status = b"422 No" if (query["k"], step) in self.refused else b"200 OK"
        body = json.dumps({"h": chained(query["h"], step)}).encode()
        return b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
            status,
            len(body),
            body,
        )

    async def close(self) -> None:
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait([*self._connections])


@asynccontextmanager
async def sink(path: Path) -> AsyncIterator[Sink]:
    """A running sink, with its journal in a file."""
    journal = Journal(path)
    made = Sink(journal)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()
        await server.wait_closed()
        journal.close()
