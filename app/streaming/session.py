"""One subscriber's view of one execution: every event once, in order, from any cursor, until the terminal one.

Subscribe first, then backfill from the durable log, drop duplicates by seq, then go live. Whenever the live queue has a
hole (overflow, another process, a lost doorbell) the session reads the log from its cursor again, so a late, slow or
reconnecting subscriber misses nothing. A database that is away is sat out: it is no reason to lose a subscriber.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from app import clock
from app.domain.errors import Unavailable
from app.domain.events import TERMINAL_TYPES
from app.engine.ports import EventLog
from app.streaming.hub import Hub, Subscription
from app.streaming.wire import WireEvent

PAGE = 500
RETRY_SECONDS = 0.5


async def follow(
    hub: Hub, log: EventLog, org_id: str, execution_id: str, after: int = 0, *, ended: bool = False
) -> AsyncGenerator[Sequence[WireEvent], None]:
    """Batches of events with seq > `after`, gapless; ends behind the terminal event. Close the iterator when done.

    With `ended` the execution is known to be over: what the log holds is all there will be.
    """
    if ended:
        async for stored in _stored(hub, log, org_id, execution_id, after):
            yield stored
        return
    subscription = hub.subscribe(execution_id)
    subscription.invalidate()
    try:
        async with aclosing(_batches(hub, subscription, log, org_id, after)) as batches:
            async for batch in batches:
                yield batch
                if batch[-1].type in TERMINAL_TYPES:
                    return
    finally:
        subscription.close()


async def _batches(
    hub: Hub, subscription: Subscription, log: EventLog, org_id: str, cursor: int
) -> AsyncGenerator[Sequence[WireEvent], None]:
    while True:
        live = await subscription.take()
        fresh = None if live is None else _continuing(live, cursor)
        if fresh is not None:
            if fresh:
                cursor = fresh[-1].seq
                yield fresh
            continue
        async for stored in _stored(hub, log, org_id, subscription.execution_id, cursor):
            cursor = stored[-1].seq
            yield stored


async def _stored(
    hub: Hub, log: EventLog, org_id: str, execution_id: str, cursor: int
) -> AsyncGenerator[Sequence[WireEvent], None]:
    while stored := await _read(hub, log, org_id, execution_id, cursor):
        cursor = stored[-1].seq
        yield stored


async def _read(hub: Hub, log: EventLog, org_id: str, execution_id: str, cursor: int) -> Sequence[WireEvent]:
    while True:
        try:
            return await hub.stored(log, org_id, execution_id, cursor, PAGE)
        except Unavailable:
            await asyncio.sleep(RETRY_SECONDS * (0.5 + clock.jitter()))


def _continuing(events: Sequence[WireEvent], cursor: int) -> Sequence[WireEvent] | None:
    """The events behind the cursor, None if there is a hole before or among them."""
    if events[0].seq == cursor + 1 and events[-1].seq == cursor + len(events):
        return events
    fresh = [event for event in events if event.seq > cursor]
    return fresh if not fresh or fresh[-1].seq == cursor + len(fresh) else None
