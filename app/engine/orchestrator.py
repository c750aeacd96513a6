"""The main path: claim → drive (plan → record → run) → until done. One per process; all processes are equal.

A nudge only wakes the claimer, and there is one claim query, so executions are found the same way whether they woke
from a wait, were accepted elsewhere, or were handed back by the rescuer. What is accepted here while nobody waits and
there is room needs no claim: it is accepted as this worker's own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from app import clock
from app.crashpoints import crashpoint
from app.domain.errors import Failure, Problems, Unavailable
from app.engine.attempt import OutputRules
from app.engine.budgets import Budgets
from app.engine.children import Children
from app.engine.definitions import Definitions
from app.engine.driver import Driver, DriverPorts
from app.engine.leases import Leases
from app.engine.ports import (
    Accepted,
    AlreadyAccepted,
    BudgetBook,
    Claim,
    DefinitionSource,
    Doorbell,
    EarlierRuns,
    ExecutionQueue,
    NewExecution,
    Recorder,
    ResultCache,
    SecretVault,
    WorkerRegistry,
    first_claim,
)
from app.engine.rescuer import Rescuer
from app.engine.secrets import Secrets
from app.engine.service import Service
from app.engine.step_types import StepType

CLAIM_BATCH = 200
HAND_OVER_SECONDS = 3.0
"""How long a drain waits for what it has cut off."""
WATCH_SECONDS = 10.0
"""So long one suspect is driven before the next, so that who kills its worker takes no other suspect along."""
LATER_SECONDS = 0.02
"""A timed wake-up comes so much after its time, because the database's clock decides and may be behind."""
TIMED_WAKE_SECONDS = 60.0
"""Sleeps shorter than this are woken to the moment by the process that put them to sleep; longer ones by the scan."""

log = structlog.get_logger("engine")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Durations in seconds."""

    lease_ttl: float
    scan_interval: float
    max_running: int
    max_recoveries: int
    drain_budget: float
    cancel_grace: float
    output_rules: OutputRules

    @property
    def suspect_from(self) -> int:
        """Deaths of its worker in a row from which an execution is suspected of being the cause."""
        return (self.max_recoveries + 1) // 2


class Orchestrator:
    """Claims executions and drives them. Start it, nudge it, drain it."""

    def __init__(
        self,
        *,
        queue: ExecutionQueue,
        registry: WorkerRegistry,
        recorder: Recorder,
        definitions: Definitions,
        source: DefinitionSource,
        earlier: EarlierRuns,
        cache: ResultCache,
        book: BudgetBook,
        vault: SecretVault,
        step_type: Callable[[str], StepType],
        doorbell: Doorbell,
        settings: EngineSettings,
    ) -> None:
        self._queue = queue
        self._definitions = definitions
        self._settings = settings
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._drivers: dict[str, Driver] = {}
        self._draining = False
        self._drained = False
        self._released_at = float("-inf")
        self._called = True
        self._rung = True
        self._arriving: set[str] = set()
        self._suspect, self._watched_until = "", float("-inf")
        self._leases = Leases(registry, settings.lease_ttl, self._abandon)
        self.budgets = Budgets(book, settings.scan_interval)
        self._ports = DriverPorts(
            recorder=recorder,
            step_type=step_type,
            read_mail=queue.mail,
            lease_trusted=self._leases.until_trusted,
            children=Children(source, earlier, definitions, self.accept),
            cache=cache,
            budgets=self.budgets,
            secrets=Secrets(vault),
            rules=settings.output_rules,
            cancel_grace=settings.cancel_grace,
        )
        self._claimer = Service("claimer", self._claim, settings.scan_interval)
        self._postman = Service("postman", self._look_for_mail, settings.scan_interval)
        self._rescuer = Rescuer(registry, self._leases, self._claimer, settings.scan_interval)
        doorbell.on_ring("work", lambda _: self.nudge())
        doorbell.on_ring("inbox", self._mail_arrived)

    async def start(self) -> None:
        """Register this process as a worker and begin to claim."""
        await self._leases.start()
        await self.budgets.refresh()
        for service in self._services:
            service.start()

    def nudge(self) -> None:
        """There may be something to claim."""
        self._rung = True
        self._claimer.wake()

    async def accept(self, new: NewExecution) -> Accepted | AlreadyAccepted:
        """Accept an execution: durable on return. It begins here at once if nobody waits, or else as it is claimed.

        Raises Unavailable, or Problems for what cannot be stored.
        """
        worker_id = self._leases.worker_id if self._has_room_for(new) else None
        self._arriving.add(new.id)
        try:
            result = await self._ports.recorder.create(new, worker_id)
            if isinstance(result, Accepted):
                if result.owned and worker_id is not None:
                    crashpoint("after_claim")
                    self._arrived(new, worker_id, result)
                else:
                    self.nudge()
            return result
        finally:
            self._arriving.discard(new.id)

    def _has_room_for(self, new: NewExecution) -> bool:
        """Whether an execution may begin here without overtaking anybody."""
        if self._somebody_may_wait or self._queue.limited or not new.may_begin:
            return False
        running = len(self._tasks) + len(self._arriving)
        return running < self._settings.max_running and not self._draining and self._leases.trusted

    @property
    def _somebody_may_wait(self) -> bool:
        return self._rung or not self._queue.nobody_waits

    def _arrived(self, new: NewExecution, worker_id: str, accepted: Accepted) -> None:
        if worker_id == self._leases.worker_id and not self._drained:  # or else its rows are given to others
            self._begin(first_claim(new, worker_id, accepted.created_at))

    @property
    def lease_trusted(self) -> bool:
        """Nobody can have taken over what this process drives."""
        return self._leases.trusted

    @property
    def running(self) -> int:
        """Executions driven by this process now."""
        return len(self._tasks)

    def stop_claiming(self) -> None:
        """Take nothing more on; what runs goes on."""
        self._draining = True

    async def drain(self) -> None:
        """Claim nothing more, let running executions finish within the budget, hand the rest to other processes.

        Draining again is fine, and does nothing.
        """
        self._draining = True
        if self._drained:
            return
        self._drained = True
        await asyncio.gather(*(service.stop() for service in self._services))
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=self._settings.drain_budget)
        if cut := self._abandon(self._leases.worker_id):
            await asyncio.wait(cut, timeout=HAND_OVER_SECONDS)
            # What steps have done is on its way to the record: nobody may go on from before it.
            with suppress(TimeoutError):
                async with asyncio.timeout(HAND_OVER_SECONDS):
                    await self._ports.recorder.settled()
        crashpoint("in_drain")
        await self._leases.stop()

    @property
    def _services(self) -> tuple[Service, ...]:
        return (self._claimer, self._postman, self._rescuer.service, self.budgets.service)

    async def _claim(self) -> None:
        await self._release_strays()
        if self._called:
            self._called = False
            await self._claim_while_there_are(self._queue.claim_called)
        await self._claim_while_there_are(self._claim_slots)

    async def _claim_slots(self, worker_id: str, limit: int) -> list[Claim]:
        self._rung = False
        watching = self._suspect in self._tasks and clock.monotonic() < self._watched_until
        return await self._queue.claim(worker_id, limit, 0 if watching else 1)

    async def _claim_while_there_are(self, claim: Callable[[str, int], Awaitable[list[Claim]]]) -> None:
        while not self._draining and self._leases.trusted:
            room = min(self._settings.max_running - len(self._tasks), CLAIM_BATCH)
            if room <= 0:
                return
            claims = await claim(self._leases.worker_id, room)
            if claims:
                crashpoint("after_claim")
            for claimed in claims:
                self._begin(claimed)
            if len(claims) < room:
                return

    def _begin(self, claim: Claim) -> None:
        if (former := self._tasks.pop(claim.id, None)) is not None:
            former.cancel()  # it has lost the execution without noticing
        self._drivers.pop(claim.id, None)
        if claim.recoveries >= self._settings.suspect_from:
            self._suspect, self._watched_until = claim.id, clock.monotonic() + WATCH_SECONDS
        task = self._tasks[claim.id] = asyncio.create_task(self._drive(claim), name=claim.id)
        task.add_done_callback(partial(self._ended, claim.id, claim.keyed))

    async def _release_strays(self) -> None:
        """Once a scan, hand back what this worker owns without driving it.

        Such are executions whose claim was committed but never answered, or whose driver could not begin.
        """
        if clock.monotonic() - self._released_at < self._settings.scan_interval or not self._leases.trusted:
            return
        self._released_at = clock.monotonic()
        self._called = True  # a ring may have been missed
        if released := await self._queue.release(self._leases.worker_id, lambda: {*self._tasks, *self._arriving}):
            log.warning("strays_released", count=released)

    async def _drive(self, claim: Claim) -> None:
        try:
            await self._begin_and_run(claim)
        except Unavailable as error:
            log.warning("execution_not_begun", execution_id=claim.id, reason=error.detail)
        except Exception:
            log.exception("driver_failed", execution_id=claim.id)
            message = "Stepstream itself failed while driving this execution; its log has the details"
            failure = Failure("internal_error", message, retryable=False)
            driver = self._drivers.get(claim.id)
            await (self._ports.give_up(claim, failure) if driver is None else driver.give_up(failure))

    async def _begin_and_run(self, claim: Claim) -> None:
        if claim.recoveries >= self._settings.max_recoveries:
            await self._ports.give_up(claim, _poison(claim.recoveries))
            return
        try:
            workflow = await self._definitions.get(claim.org_id, claim.workflow_id, claim.workflow_version)
        except Problems as error:
            await self._ports.give_up(claim, Failure("workflow_invalid", error.detail, retryable=False))
            return
        driver = self._drivers[claim.id] = Driver(claim, workflow, self._ports)
        await driver.run()

    def _ended(self, execution_id: str, keyed: bool, task: "asyncio.Task[None]") -> None:
        if self._tasks.get(execution_id) is not task:
            return
        del self._tasks[execution_id]
        driver = self._drivers.pop(execution_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("execution_abandoned", execution_id=execution_id, error=repr(error))
        if driver is not None and driver.has_mail:
            self._called = True
        if keyed or self._somebody_may_wait:
            self.nudge()  # a slot may be free now
        sleep = None if driver is None else driver.sleep_seconds
        if sleep is not None and sleep <= TIMED_WAKE_SECONDS:
            asyncio.get_running_loop().call_later(sleep + LATER_SECONDS, self.nudge)

    def _mail_arrived(self, execution_ids: Sequence[str]) -> None:
        for execution_id in execution_ids:
            driver = self._drivers.get(execution_id)
            if driver is not None:
                driver.ring()
        if not execution_ids or any(execution_id not in self._drivers for execution_id in execution_ids):
            self._called = True
            self.nudge()
            self._postman.wake()

    async def _look_for_mail(self) -> None:
        for execution_id in await self._queue.with_mail(self._leases.worker_id):
            if (driver := self._drivers.get(execution_id)) is not None:
                driver.ring()

    def _abandon(self, worker_id: str) -> list["asyncio.Task[None]"]:
        """Stop driving everything without writing: what `worker_id` owned is, or will be, another worker's."""
        tasks = list(self._tasks.values())
        self._tasks, self._drivers = {}, {}
        for task in tasks:
            task.cancel()
        if tasks:
            log.warning("executions_handed_over", count=len(tasks), worker_id=worker_id)
        return tasks


def _poison(recoveries: int) -> Failure:
    message = f"The worker running this execution died {recoveries} times in a row; it is not tried again"
    return Failure("poison", message, retryable=False)
