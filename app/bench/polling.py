"""Waiting for what nobody tells."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")


async def eventually(look: Callable[[], Awaitable[Found]], every: float, seconds: float = 600.0) -> Found:
    """Look again and again until there is something true to see; raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            found = await look()
            if found:
                return found
            await asyncio.sleep(every)
