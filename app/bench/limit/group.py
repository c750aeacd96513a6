"""The barest group commit: what gathers while one commit is in flight is the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Group(Generic[Item, Answer]):
    """Hands items to `write` in batches; all of a batch wait for one future."""

    def __init__(self, write: Callable[[Sequence[Item]], Awaitable[Answer]]) -> None:
        self._write = write
        self._items: list[Item] = []
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._arrived = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def put(self, item: Item) -> Answer:
        """The answer to the batch that the item is in."""
        self._items.append(item)
        self._arrived.set()
        return await self._answer

    async def stop(self) -> None:
        """Write nothing more."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(0)  # whoever was woken by the last commit joins this one
            items, answer = self._items, self._answer
            self._items, self._answer = [], asyncio.get_running_loop().create_future()
            self._arrived.clear()
            try:
                answer.set_result(await self._write(items))
            except Exception as error:  # noqa: BLE001 - for those who wait
                answer.set_exception(error)
