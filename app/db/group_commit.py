"""Group commit: what arrives while one commit is in flight becomes the next batch. No timer.

A lone item is written at once; under load batches grow by themselves, up to a bound. By halves, a large one is half of
what is under way, so that one half computes while the other is committed: in one batch, all would wait for the database
together, and then the database for them. A batch that the database refuses is halved until the bad item is alone, so
that its neighbours are written. The write runs in a task of its own and each item has a future of its own: whoever
waits may be cancelled without cutting a commit, or anybody else.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from app import clock
from app.domain.errors import StepstreamError, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH_ITEMS = 240
"""So many ids fit into one notification."""
HALVED_FROM = 64
"""Fewer items than these are one batch: two halves would cost more than they save."""
BATCH_BYTES = 4 << 20
"""A batch must pass well within one command's timeout on a slow network; a larger item goes alone."""
STOP_SECONDS = 5.0

OnFlush = Callable[[int, float], None]
"""Told the size and the seconds of each commit. Must not raise."""


def ignore_flush(_size: int, _seconds: float) -> None:
    """Nobody measures."""


def weightless(_item: object) -> int:
    """Items too small to count their bytes."""
    return 0


class Refused(StepstreamError):
    """The database refuses the content of a batch; written singly, all but the bad items would pass."""

    code = "record_rejected"


class _Batch(Generic[Item, Result]):
    """Items that are committed together, each with the future that its giver waits for or has left."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.bytes = 0
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._answers: list[asyncio.Future[Result]] = []

    def has_room(self, size: int, most: int) -> bool:
        return len(self.items) < most and self.bytes + size <= BATCH_BYTES

    def add(self, item: Item, size: int) -> "asyncio.Future[Result]":
        answer: asyncio.Future[Result] = self._loop.create_future()
        self.items.append(item)
        self.bytes += size
        self._answers.append(answer)
        return answer

    def end(self, results: Sequence[Result]) -> None:
        for answer, result in zip(self._answers, results, strict=True):
            if not answer.done():
                answer.set_result(result)
        self.over.set_result(None)

    def fail(self, error: Exception) -> None:
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(error)
        self.over.set_result(None)


class GroupCommit(Generic[Item, Result]):
    """`write` commits a batch and answers with one result per item, in order; it raises Refused for bad content."""

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        refused: Callable[[Item, Refused], Result],
        *,
        weigh: Callable[[Item], int] = weightless,
        on_flush: OnFlush = ignore_flush,
        by_halves: bool = False,
    ) -> None:
        self._write = write
        self._refused = refused
        self._weigh = weigh
        self._on_flush = on_flush
        self._gathering: deque[_Batch[Item, Result]] = deque()
        self._newest: _Batch[Item, Result] | None = None
        self._by_halves = by_halves
        self._most = HALVED_FROM // 2 if by_halves else BATCH_ITEMS
        self._arrived = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; starting twice is starting once."""
        if self._task is None and not self._stopping:
            self._task = asyncio.create_task(self._run(), name="group-commit")

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Take nothing more and write what is gathered; what is not written in time is Unavailable to its waiters."""
        self._stopping = True
        self._arrived.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)
            self._task.cancel()
            await asyncio.wait([self._task])
        while self._gathering:
            self._gathering.popleft().fail(_unwritten())

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """The result of the item's commit, or what `write` raised for its batch; raises Unavailable when stopping.

        Who cancels the future leaves: what was submitted is written all the same.
        """
        if self._stopping:
            raise _unwritten()
        size = self._weigh(item)
        if not self._gathering or not self._gathering[-1].has_room(size, self._most):
            self._gathering.append(_Batch())
        self._newest = self._gathering[-1]
        self._arrived.set()
        return self._newest.add(item, size)

    async def settled(self) -> None:
        """Wait until all that was submitted so far is answered, though nobody may be waiting for it any more."""
        if self._newest is not None:
            await asyncio.wait([self._newest.over])

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._next_is_full:
                await asyncio.sleep(0)  # let everything that is ready in this turn of the loop join the batch
            if self._gathering:
                await self._flush(self._gathering.popleft())
            if not self._gathering:
                self._arrived.clear()
                if self._stopping:
                    return

    @property
    def _next_is_full(self) -> bool:
        """Nobody can join it: it goes before those whom the last one has answered compute, not behind them."""
        return len(self._gathering) > 1 or (bool(self._gathering) and len(self._gathering[0].items) >= self._most)

    async def _flush(self, batch: _Batch[Item, Result]) -> None:
        started = clock.monotonic()
        try:
            batch.end(await self._commit(batch.items))
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait for the answer
            batch.fail(error)
        except asyncio.CancelledError:
            batch.fail(_unwritten())
            raise
        if self._by_halves:
            under_way = len(batch.items) + sum(len(waiting.items) for waiting in self._gathering)
            self._most = min(max(under_way, HALVED_FROM) // 2, BATCH_ITEMS)
        self._on_flush(len(batch.items), clock.monotonic() - started)

    async def _commit(self, batch: Sequence[Item]) -> Sequence[Result]:
        try:
            return await self._write(batch)
        except Refused as error:
            if len(batch) == 1:
                return [self._refused(batch[0], error)]
        middle = len(batch) // 2
        return [*await self._commit(batch[:middle]), *await self._commit(batch[middle:])]


def _unwritten() -> Unavailable:
    return Unavailable("This process is stopping; whether the database took this is unknown")
