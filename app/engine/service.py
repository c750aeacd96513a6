"""A background loop: runs one piece of work again and again, survives its errors, stops when told."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from app import clock
from app.domain.errors import Unavailable

STOP_SECONDS = 5.0
LONGEST_BACKOFF = 5.0

log = structlog.get_logger("service")


class Service:
    """Calls `work` every `interval` seconds, or sooner when `wake` is called. Errors are logged and backed off."""

    def __init__(self, name: str, work: Callable[[], Awaitable[None]], interval: float) -> None:
        self.name = name
        self._work = work
        self._interval = interval
        self._woken = asyncio.Event()
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; starting twice is starting once."""
        if self._task is None and not self._stopped:
            self._task = asyncio.create_task(self._run(), name=self.name)

    def wake(self) -> None:
        """Do the work soon, without waiting for the interval."""
        self._woken.set()

    async def stop(self) -> None:
        """End after the work under way, or cut it if it takes too long; stopping before or twice is fine."""
        self._stopped = True
        self._woken.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=STOP_SECONDS)
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        failures = 0
        while not self._stopped:
            self._woken.clear()
            try:
                await self._work()
                failures = 0
            except Unavailable as error:
                failures += 1
                log.warning("service_waits", service=self.name, reason=error.detail)
            except Exception:
                failures += 1
                log.exception("service_failed", service=self.name)
            await self._pause(failures)

    async def _pause(self, failures: int) -> None:
        seconds = self._interval
        if failures:
            # The exponent is bounded: an outage of hours must not overflow a float.
            longest = min(self._interval, LONGEST_BACKOFF)
            seconds = min(0.1 * 2.0 ** min(failures, 10), longest) * (0.5 + clock.jitter() / 2)
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return
