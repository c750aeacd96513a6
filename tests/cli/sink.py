"""An outside world that answers every path."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.sink import Outside

ANSWER = b'HTTP/1.1 %d Said\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"ok":true}'


class Sink(Outside[str]):
    """A call is its path; `status` says what it is answered with."""

    def __init__(self) -> None:
        super().__init__()
        self.status: Callable[[str], int] = lambda _path: 200

    def hold(self, path: str) -> None:
        """Keep the answers for a path back from now on."""
        self.holds = lambda other: other == path

    async def answer(self, head: bytes) -> bytes:
        path = head.split(b" ")[1].decode()
        status = self.status(path)
        await self.happens(path, head)
        return ANSWER % status


@asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    """A running sink."""
    made = Sink()
    async with made.listening():
        yield made
