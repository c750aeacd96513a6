"""Group commit: what arrives while one commit is in flight becomes the next batch. No timer.

A lone item is written at once; under load batches grow by themselves. A batch that the database refuses is halved until
the bad item is alone, so that its neighbours are written. The write runs in a task of its own: whoever waits may be
cancelled without cutting a commit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from app.domain.errors import StepstreamError

Item = TypeVar("Item")
Result = TypeVar("Result")


OnFlush = Callable[[int, float], None]
"""Told the size and the seconds of each commit."""


def ignore_flush(_size: int, _seconds: float) -> None:
    """Nobody measures."""


class Refused(StepstreamError):
    """The database refuses the content of a batch; written singly, all but the bad items would pass."""

    code = "record_rejected"


class GroupCommit(Generic[Item, Result]):
    """`write` commits a batch and answers with one result per item, in order; it raises Refused for bad content."""

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        refused: Callable[[Item, Refused], Result],
        on_flush: OnFlush = ignore_flush,
    ) -> None:
        self._write = write
        self._refused = refused
        self._on_flush = on_flush
        self._gathering: list[Item] = []
        self._answer: asyncio.Future[Sequence[Result]] | None = None
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="group-commit")

    async def stop(self) -> None:
        """Write what is gathered, then end."""
        if self._task is None:
            return
        while self._gathering:
            await asyncio.shield(self._answer_of_batch())
        self._task.cancel()
        await asyncio.wait([self._task])
        self._task = None

    async def submit(self, item: Item) -> Result:
        """The result of the item's commit; raises what `write` raised for its batch."""
        answer = self._answer_of_batch()
        position = len(self._gathering)
        self._gathering.append(item)
        self._arrived.set()
        return (await asyncio.shield(answer))[position]

    def _answer_of_batch(self) -> "asyncio.Future[Sequence[Result]]":
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
        return self._answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            await asyncio.sleep(0)  # let everything that is ready in this turn of the loop join the batch
            batch, answer = self._gathering, self._answer_of_batch()
            self._gathering, self._answer = [], None
            self._arrived.clear()
            started = loop.time()
            try:
                answer.set_result(await self._commit(batch))
            except Exception as error:  # noqa: BLE001 - it belongs to those who wait for the answer
                answer.set_exception(error)
                answer.exception()  # retrieved: nobody may be waiting any more
            self._on_flush(len(batch), loop.time() - started)

    async def _commit(self, batch: Sequence[Item]) -> Sequence[Result]:
        try:
            return await self._write(batch)
        except Refused as error:
            if len(batch) == 1:
                return [self._refused(batch[0], error)]
        middle = len(batch) // 2
        return [*await self._commit(batch[:middle]), *await self._commit(batch[middle:])]
