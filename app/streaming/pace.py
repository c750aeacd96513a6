"""Reading a stream with a heartbeat: say something when nothing happens, stop when told."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from app.streaming.wire import WireEvent

Batch = Sequence[WireEvent]


async def paced(
    batches: AsyncGenerator[Batch, None], seconds: float, stop: asyncio.Event
) -> AsyncGenerator[Batch | None, None]:
    """The batches, and None after each `seconds` of silence; ends with the batches or when `stop` is set."""
    feed = _Feed(seconds)
    tasks = [asyncio.create_task(feed.fill(batches)), asyncio.create_task(feed.end_on(stop))]
    try:
        while (batch := await feed.take()) is not None or not feed.over:
            yield batch
    finally:
        feed.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await batches.aclose()


class _Feed:
    """One batch at most between who reads the stream and who sends it on: a thousand streams wake for each batch.

    So there is no task, no timer and no set of futures for it. The clock looks once in a while whether it is silent.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._batch: Batch | None = None
        self._beats = False
        self._ended = False
        self._stopped = False
        self._error: Exception | None = None
        self._asked: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._heard_at = self._loop.time()
        self._clock = self._loop.call_later(seconds, self._look)

    @property
    def over(self) -> bool:
        """Nothing comes any more, or nobody wants it."""
        return self._stopped or (self._ended and self._batch is None)

    async def fill(self, batches: AsyncGenerator[Batch, None]) -> None:
        """Pass on the batches, each once the one before is taken."""
        try:
            async for batch in batches:
                if self._batch is not None:
                    self._room = self._loop.create_future()
                    await self._room
                self._batch = batch
                self._wake()
        except Exception as error:  # noqa: BLE001 - raised again to who takes the batches
            self._error = error
        self._ended = True
        self._wake()

    async def end_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopped = True
        self._wake()

    async def take(self) -> Batch | None:
        """The next batch, None for silence or at the end; raises what ended the stream."""
        while self._batch is None or self._stopped:
            if self.over or self._beats:
                self._beats = False
                self._raise_error()
                return None
            self._asked = self._loop.create_future()
            await self._asked
        batch, self._batch = self._batch, None
        self._heard_at = self._loop.time()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return batch

    def _raise_error(self) -> None:
        if self._error is not None and not self._stopped:
            raise self._error

    def close(self) -> None:
        self._clock.cancel()

    def _look(self) -> None:
        silent = self._loop.time() - self._heard_at
        if silent >= self._seconds:
            self._beats, self._heard_at, silent = True, self._loop.time(), 0.0
            self._wake()
        self._clock = self._loop.call_later(self._seconds - silent, self._look)

    def _wake(self) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(None)
