"""The attempts under way in one driver: begun, timed, stopped, and seen to stop."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial

from app.domain.compiled import CompiledStep
from app.domain.errors import failure_of
from app.domain.step_state import Aborted, Failed, Outcome
from app.engine.attempt import AttemptContext, charged, timed_out

LEAVE_SECONDS = 2.0
"""How long a driver that leaves waits for its cancelled attempts."""


@dataclass(slots=True)
class _Running:
    """An attempt's task, and the context it was given. The timer is that of its time limit, or of when it ignores it.

    `verdict` is what it comes to once it has been cancelled.
    """

    task: "asyncio.Task[Outcome]"
    context: AttemptContext
    timer: asyncio.TimerHandle
    verdict: Outcome | None = None
    aborted: bool = False


class RunningAttempts:
    """Attempts by the path of their step or item; each is reported once, however it ends.

    `told` makes of an error's words what may be kept. `grace` is how many seconds an attempt may take to end after it
    was told to.
    """

    def __init__(self, report: Callable[[str, Outcome], None], told: Callable[[str], str], grace: float) -> None:
        self._report = report
        self._told = told
        self._grace = grace
        self._running: dict[str, _Running] = {}
        self._uncut: set[asyncio.Task[str]] = set()

    def begin(
        self, path: str, step: CompiledStep, context: AttemptContext, attempt: Coroutine[None, None, Outcome], name: str
    ) -> None:
        """Run an attempt, for as long as its step may take; one that does not end then either is given up."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(attempt, name=name)
        timer = loop.call_later(step.timeout, self._time_is_up, path, step)
        self._running[path] = _Running(task, context, timer)
        task.add_done_callback(partial(self._ended, path))

    async def see_through(self, work: Coroutine[None, None, str]) -> str:
        """Work that an attempt waits for and that ends though the attempt is cancelled, as it must not be half done."""
        task = asyncio.create_task(work)
        self._uncut.add(task)
        task.add_done_callback(self._uncut.discard)
        return await asyncio.shield(task)

    async def seen_through(self) -> None:
        """Wait until no such work is under way."""
        if self._uncut:
            await asyncio.wait(self._uncut)

    def abort(self, grace: float) -> None:
        """Cancel all; what has not ended after `grace` seconds is given up."""
        loop = asyncio.get_running_loop()
        for path, running in self._running.items():
            if not running.aborted:
                running.aborted = running.context.cancelled = True
                running.verdict = running.verdict or Aborted()
                running.task.cancel()
                running.timer.cancel()
                running.timer = loop.call_later(grace, self._force, path, running)

    async def abandon(self) -> None:
        """Whoever drives the execution next must not overlap with what still runs here: stop it, and see it stop."""
        attempts, self._running = self._running, {}
        self._report = _unheard
        for running in attempts.values():
            running.context.close()
            running.context.cancelled = True
            running.timer.cancel()
            running.task.cancel()
        if left := {*(running.task for running in attempts.values()), *self._uncut}:
            await asyncio.wait(left, timeout=LEAVE_SECONDS)

    def _ended(self, path: str, task: "asyncio.Task[Outcome]") -> None:
        running = self._running.get(path)
        if running is None or running.task is not task:
            return
        del self._running[path]
        running.timer.cancel()
        if not task.cancelled():
            error = task.exception()
            self._report(path, task.result() if error is None else Failed(failure_of(error, self._told)))
        elif running.verdict is not None:
            self._report(path, charged(running.verdict, running.context))
        else:
            error = asyncio.CancelledError("the step cancelled itself")
            self._report(path, Failed(failure_of(error, self._told)))

    def _time_is_up(self, path: str, step: CompiledStep) -> None:
        running = self._running[path]
        running.verdict, running.context.cancelled = timed_out(step), True
        running.task.cancel()
        running.timer = asyncio.get_running_loop().call_later(self._grace, self._force, path, running)

    def _force(self, path: str, running: _Running) -> None:
        """Go on without an attempt that does not end; what it says or returns later is not heard."""
        running.context.close()
        del self._running[path]
        running.task.cancel()
        self._report(path, charged(running.verdict or Aborted(), running.context))


def _unheard(_path: str, _outcome: Outcome) -> None:
    """In place of a driver that has left: referred to in a circle, it would wait for a garbage collection."""
