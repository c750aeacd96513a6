"""Threads for calls that may never return: a call that is given up leaves its place to the next one.

A thread cannot be ended from outside. With a pool of threads a few calls that hang would hold up all others for good,
and the end of the process as well. Here each call has a thread to itself, that of an earlier call which has returned or
a new one; so many run at once, and of those that were given up so many may linger. They are daemons: the process ends
without them.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeAlias

from app.domain.errors import StepError

Work: TypeAlias = "tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]"


class Threads:
    """`places` calls at once, and `lingering` more that were given up and have not returned."""

    def __init__(self, places: int, lingering: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._most_lingering = lingering
        self._lingering = 0
        self._idle: list[_Thread] = []

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
            thread = self._idle.pop() if self._idle else _Thread(self._ended)
            thread.work.put((call, answer, loop))
            try:
                return await answer
            except asyncio.CancelledError:
                if answer.cancelled():
                    self._lingering += 1
                raise

    def close(self) -> None:
        """End the threads that have nothing to do."""
        while self._idle:
            self._idle.pop().work.put(None)

    def _ended(
        self, thread: "_Thread", answer: "asyncio.Future[Any]", result: Any, error: BaseException | None
    ) -> None:
        self._idle.append(thread)
        if answer.cancelled():
            self._lingering -= 1
        elif error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)


class _Thread:
    """A thread that makes the calls it is given, one after the other, and tells the event loop how each ended."""

    def __init__(self, ended: "Callable[[_Thread, asyncio.Future[Any], Any, BaseException | None], None]") -> None:
        self.work: SimpleQueue[Work | None] = SimpleQueue()
        self._ended = ended
        threading.Thread(target=self._run, name="stepstream-function", daemon=True).start()

    def _run(self) -> None:
        while (work := self.work.get()) is not None:
            call, answer, loop = work
            result, error = None, None
            try:
                result = call()
            except BaseException as raised:  # noqa: BLE001 - it belongs to who waits
                error = raised
            with suppress(RuntimeError):  # the loop is gone, and everybody who waited
                loop.call_soon_threadsafe(self._ended, self, answer, result, error)
            del work, call, answer, loop, result, error  # or they would live on until the next call
