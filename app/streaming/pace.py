"""Reading a stream with a heartbeat: say something when nothing happens, stop when told."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from app.domain.changes import Event


async def paced(
    batches: AsyncGenerator[Sequence[Event], None], seconds: float, stop: asyncio.Event
) -> AsyncGenerator[Sequence[Event] | None, None]:
    """The batches, and None after each `seconds` of silence; ends with the batches or when `stop` is set."""
    stopped = asyncio.ensure_future(stop.wait())
    following: asyncio.Future[Sequence[Event]] | None = None
    try:
        while not stop.is_set():
            if following is None:
                following = asyncio.ensure_future(anext(batches))
            either: set[asyncio.Future[Any]] = {following, stopped}
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                yield None
                continue
            try:
                batch = following.result()
            except StopAsyncIteration:
                return
            following = None
            yield batch
    finally:
        stopped.cancel()
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await batches.aclose()
