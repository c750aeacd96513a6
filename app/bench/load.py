"""Offering work: as many runs at once as asked for, each begun when the one before it has ended."""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

from app.bench.figures import Load
from app.bench.shapes import Shape

RunOne = Callable[[Shape], Awaitable[None]]
"""Carries out one run of a shape, or one batch of runs, and returns at its end."""


async def for_seconds(run_one: RunOne, shape: Shape, at_once: int, seconds: float, batch: int = 1) -> Load:
    """Begin runs for so many seconds, and wait for the end of those begun."""
    durations: list[float] = []
    begun = perf_counter()

    async def go_on() -> None:
        while (now := perf_counter()) - begun < seconds:
            await run_one(shape)
            durations.extend([perf_counter() - now] * batch)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(max(at_once // batch, 1)):
                group.create_task(go_on())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return Load(len(durations), perf_counter() - begun, durations)


async def one_by_one(run_one: RunOne, shape: Shape, times: int, batch: int = 1) -> Load:
    """So many runs, one or one batch after the other."""
    durations: list[float] = []
    begun = perf_counter()
    for _ in range(times // batch):
        since = perf_counter()
        await run_one(shape)
        durations.extend([perf_counter() - since] * batch)
    return Load(len(durations), perf_counter() - begun, durations)
