"""Threads for calls that may never return: a call that is given up leaves its place to the next one.

A thread cannot be ended from outside. With a pool of threads a few calls that hang would hold up all others for good,
and the end of the process as well. Here each call has a thread of its own; so many run at once, and of those that were
given up so many may linger. They are daemons: the process ends without them.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from app.domain.errors import StepError


class Threads:
    """`places` calls at once, and `lingering` more that were given up and have not returned."""

    def __init__(self, places: int, lingering: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._most_lingering = lingering
        self._lingering = 0

    async def run(self, call: Callable[[], Any]) -> Any:
        """What the call returns or raises. Cancelling this gives the call up; it goes on unheard.

        Raises StepError `threads_exhausted` when too many that were given up still run.
        """
        async with self._places:
            if self._lingering >= self._most_lingering:
                detail = f"{self._lingering} functions that were given up still run in this process; restart it"
                raise StepError(detail, code="threads_exhausted")
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[Any] = loop.create_future()
            work = (call, answer, loop)
            threading.Thread(target=self._work, args=work, name="stepstream-function", daemon=True).start()
            try:
                return await answer
            except asyncio.CancelledError:
                if answer.cancelled():
                    self._lingering += 1
                raise

    def _work(self, call: Callable[[], Any], answer: "asyncio.Future[Any]", loop: asyncio.AbstractEventLoop) -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:  # noqa: BLE001 - it belongs to who waits
            error = raised
        with suppress(RuntimeError):  # the loop is gone, and everybody who waited
            loop.call_soon_threadsafe(self._ended, answer, result, error)

    def _ended(self, answer: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        if answer.cancelled():
            self._lingering -= 1
        elif error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)
