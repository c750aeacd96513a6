"""Waiting for the end of a run: the event that ends it answers; the tables are asked only where it may be missed."""

import asyncio

from app.domain.errors import Unavailable
from app.engine.ports import EventLog
from app.streaming.hub import EndWatch, Word

RETRY_SECONDS = 0.2


async def end_of(watch: EndWatch, log: EventLog, org_id: str, seconds: float) -> bool:
    """Wait at most `seconds`; True once the terminal event is committed, False also when this process stops.

    For who has been watching since before the end can have come, or invalidates the watch first. Sits out an
    unavailable database.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                match await watch.heard():
                    case Word.ENDED:
                        return True
                    case Word.LEAVE:
                        return False
                    case Word.LOOK:
                        if await _ended(watch, log, org_id):
                            return True
    except TimeoutError:
        return False


async def _ended(watch: EndWatch, log: EventLog, org_id: str) -> bool:
    try:
        return await log.ended(org_id, watch.execution_id)
    except Unavailable:
        await asyncio.sleep(RETRY_SECONDS)
        watch.invalidate()
        return False
