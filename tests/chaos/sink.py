"""The outside world of chaos, which keeps a line on the disk of every effect steps have on it.

A call is `/<execution>/<step>?k=<key>&h=<hash>`, and its answer the next hash, so that a result tells every step that
led to it. The key names the wish; executions that repair each other share it.
"""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.chaos.journal import Journal
from tests.sink import Outside


def chained(before: str, *steps: str) -> str:
    """The hash after these steps."""
    for step in steps:
        before = hashlib.sha256(f"{before}/{step}".encode()).hexdigest()[:16]
    return before


class Sink(Outside[tuple[str, str]]):
    """A call is its execution and step. Those in `refused`, by (key, step), have their effect and are answered 422."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.refused: set[tuple[str, str]] = set()
        self._journal = journal

    async def answer(self, head: bytes) -> bytes:
        target = urlsplit(head.split(b" ")[1].decode())
        _, execution, step = target.path.split("/", 2)
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        self._journal.write(execution=execution, step=step, key=query["k"])
        await self.happens((execution, step), head)
        status = b"422 No" if (query["k"], step) in self.refused else b"200 OK"
        body = json.dumps({"h": chained(query["h"], step)}).encode()
        return b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
            status,
            len(body),
            body,
        )


@asynccontextmanager
async def sink(path: Path) -> AsyncIterator[Sink]:
    """A running sink, with its journal in a file."""
    journal = Journal(path)
    made = Sink(journal)
    try:
        async with made.listening():
            yield made
    finally:
        journal.close()
