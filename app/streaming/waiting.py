"""Waiting for the end of a run: the event that ends it answers; the tables are asked only where it may be missed."""

import asyncio

from app.domain.errors import Unavailable
from app.domain.events import TERMINAL_TYPES
from app.engine.ports import EventLog
from app.streaming.hub import Hub

RETRY_SECONDS = 0.2


async def until_terminal(hub: Hub, log: EventLog, org_id: str, execution_id: str, seconds: float) -> bool:
    """Wait at most `seconds`; True once the terminal event is committed. Sits out an unavailable database."""
    subscription = hub.subscribe(execution_id)
    subscription.invalidate()
    try:
        async with asyncio.timeout(seconds):
            while True:
                events = await subscription.take()
                try:
                    if events[-1].type in TERMINAL_TYPES if events else await log.ended(org_id, execution_id):
                        return True
                except Unavailable:
                    await asyncio.sleep(RETRY_SECONDS)
                    subscription.invalidate()
    except TimeoutError:
        return False
    finally:
        subscription.close()
