"""Waiting for the end of a run: the same events, looked at only for the last one."""

import asyncio
from contextlib import aclosing

from app.engine.ports import EventLog
from app.streaming.hub import Hub
from app.streaming.session import follow


async def until_terminal(
    hub: Hub, log: EventLog, org_id: str, execution_id: str, seconds: float, after: int = 0
) -> bool:
    """Wait at most `seconds`; True once the terminal event is committed."""
    async with aclosing(follow(hub, log, org_id, execution_id, after)) as batches:
        try:
            async with asyncio.timeout(seconds):
                async for _ in batches:
                    pass
        except TimeoutError:
            return False
        return True
