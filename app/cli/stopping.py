"""Ctrl-C and SIGTERM: the first asks the process to stop in good order, the second ends it where it stands.

Python-level handlers, so that the second signal works even while the event loop is busy.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvloop

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """The signals of this process; `asked` is set by the first one."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.received: int | None = None
        self._loop = asyncio.get_running_loop()
        self._breakable: asyncio.Task[object] | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals inside the block."""
        before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Inside the block the first signal also cancels the current task."""
        self._breakable = asyncio.current_task()
        if self.asked.is_set():
            self._break_off()
        try:
            yield
        finally:
            self._breakable = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        self._loop.call_soon_threadsafe(self._ask)

    def _ask(self) -> None:
        self.asked.set()
        self._break_off()

    def _break_off(self) -> None:
        if self._breakable is not None:
            self._breakable.cancel()


def run_until_stopped(main: Callable[[StopSignals], Awaitable[int]]) -> int:
    """Run `main` in an event loop of its own; its exit code, or 128 + the signal that broke it off."""

    async def supervised() -> int:
        signals = StopSignals()
        with signals.handled():
            try:
                return await main(signals)
            except asyncio.CancelledError:
                if signals.received is None:
                    raise
                return 128 + signals.received

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(supervised())
