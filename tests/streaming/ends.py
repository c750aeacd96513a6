"""Waiting for the end of a run that may have ended before."""

from app.engine.ports import EventLog
from app.streaming.hub import Hub
from app.streaming.waiting import end_of


async def until_terminal(hub: Hub, log: EventLog, org_id: str, execution_id: str, seconds: float) -> bool:
    """Wait at most `seconds`; whether the end has come."""
    watch = hub.watch_end(execution_id)
    watch.invalidate()
    try:
        return await end_of(watch, log, org_id, seconds)
    finally:
        watch.close()
