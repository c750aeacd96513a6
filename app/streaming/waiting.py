"""Waiting for the end of a run: the event that ends it answers; the tables are asked only where it may be missed."""

import asyncio

from app.domain.errors import Unavailable
from app.engine.ports import EventLog
from app.streaming.hub import EndWatch, Hub, Word

RETRY_SECONDS = 0.2


async def until_terminal(hub: Hub, log: EventLog, org_id: str, execution_id: str, seconds: float) -> bool:
    """Wait at most `seconds`; True once the terminal event is committed, False also when this process stops.

    Sits out an unavailable database.
    """
    watch = hub.watch_end(execution_id)
    watch.invalidate()
    try:
        return await end_of(watch, log, org_id, seconds)
    finally:
        watch.close()


async def end_of(watch: EndWatch, log: EventLog, org_id: str, seconds: float) -> bool:
    """The same, for who has been watching since before the end can have come."""
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
