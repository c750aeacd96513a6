"""One execution's life in this process: plan, record, run what was decided, until it ends, sleeps or is lost.

Guarantees. One transition is in flight at a time; what happens meanwhile is merged into the next one. A step whose
effect the world can see starts only after the transition that says so is durable, and only while the lease is trusted.
If the lease is lost the driver stops without writing anything: the next owner goes on from the record.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from app import clock
from app.domain.compiled import CompiledWorkflow
from app.domain.decisions import StartStep
from app.domain.errors import Failure
from app.domain.events import EventData
from app.domain.evolution import Changes, evolve, note, suspend
from app.domain.planner import next_wake, plan
from app.domain.snapshot import Aborted, Outcome, Snapshot, StopReason
from app.domain.states import ExecutionStatus
from app.domain.steps import Effect
from app.engine.attempt import AttemptContext, OutputRules, idempotency_key, run_attempt
from app.engine.failsafe import Position, give_up
from app.engine.ports import Claim, LeaseLost, Mail, Recorded, Recorder, Rejected
from app.engine.restore import restore, stop_requested
from app.engine.run_log import tell
from app.engine.step_types import StepType
from app.engine.transition import Fence, build_transition

HOLD_SECONDS = 1.0
"""A wait up to this long is sat out in memory; a longer one is recorded as WAITING and gives up the lease."""

log = structlog.get_logger("engine")


class RecordedClock:
    """Recorded time: the database's time at the claim plus the monotonic clock since; it never goes backwards."""

    def __init__(self, claimed_at: datetime, last_recorded_at: datetime | None) -> None:
        self._base = claimed_at
        self._since = clock.monotonic()
        self._last = claimed_at if last_recorded_at is None else max(claimed_at, last_recorded_at)

    def now(self) -> datetime:
        self._last = max(self._last, self._base + timedelta(seconds=clock.monotonic() - self._since))
        return self._last


@dataclass(frozen=True, slots=True)
class DriverPorts:
    """What a driver works with; shared by all drivers of a process."""

    recorder: Recorder
    step_type: Callable[[str], StepType]
    read_mail: Callable[[str], Awaitable[Sequence[Mail]]]
    lease_trusted: Callable[[str], Awaitable[bool]]
    rules: OutputRules
    cancel_grace: float

    async def give_up(self, claim: Claim, failure: Failure) -> None:
        """End a claimed execution as FAILED before it could be driven."""
        fence = Fence(claim.id, claim.org_id, claim.owner, claim.epoch)
        recorded = Position(claim.write_no, claim.next_seq, claim.progress)
        at = RecordedClock(claim.claimed_at, claim.last_recorded_at).now()
        await give_up(fence, recorded, self.recorder, failure, at)


@dataclass(slots=True)
class RunningAttempt:
    """An attempt under way: its task and the context it was given."""

    task: "asyncio.Task[Outcome]"
    context: AttemptContext


class Driver:
    """Drives one claimed execution. `run` is the main path."""

    def __init__(self, claim: Claim, workflow: CompiledWorkflow, ports: DriverPorts) -> None:
        self._claim = claim
        self._workflow = workflow
        self._ports = ports
        self._clock = RecordedClock(claim.claimed_at, claim.last_recorded_at)
        self._snapshot: Snapshot = restore(workflow, claim)
        self._fence = Fence(claim.id, claim.org_id, claim.owner, claim.epoch)
        self._recorded = Position(claim.write_no, claim.next_seq, claim.progress)
        self._attempts: dict[str, RunningAttempt] = {}
        self._said: list[tuple[str, str, EventData]] = []
        self._unread: list[Mail] = list(claim.mail)
        self._has_mail = False
        self._fact = asyncio.Event()

    async def run(self) -> None:
        """Drive until the execution ends, goes to sleep, or is no longer ours."""
        try:
            while True:
                changes, read_mail = await self._advance()
                if not await self._record(changes, read_mail):
                    return
                if self._snapshot.status.terminal or self._asleep:
                    return
                if not await self._launch(changes.starts):
                    return
                self._abort_if_stopping()
                await self._next_fact()
        finally:
            self._abandon_attempts()

    def ring(self) -> None:
        """There may be mail."""
        self._has_mail = True
        self._fact.set()

    async def give_up(self, failure: Failure) -> None:
        """End the execution as FAILED from what is recorded, when nothing better can be said."""
        await give_up(self._fence, self._recorded, self._ports.recorder, failure, self._clock.now())

    async def _advance(self) -> tuple[Changes, list[str]]:
        """Take in every fact that has arrived and decide until nothing is left to decide."""
        self._fact.clear()
        changes = Changes()
        read_mail = await self._take_mail()
        self._take_said(changes)
        launched = 0
        while decisions := plan(self._workflow, self._snapshot, self._clock.now()):
            for decision in decisions:
                evolve(self._workflow, self._snapshot, decision, self._clock.now(), changes)
            launched = await self._run_pure(changes, launched)
        self._sleep_if_idle(changes)
        return changes, read_mail

    async def _take_mail(self) -> list[str]:
        if self._has_mail:
            self._has_mail = False
            self._unread.extend(await self._ports.read_mail(self._claim.id))
        mail, self._unread = self._unread, []
        if self._snapshot.stop is None and not self._snapshot.status.terminal:
            self._snapshot.stop = stop_requested(mail)
        return [item.id for item in mail]

    def _take_said(self, changes: Changes) -> None:
        said, self._said = self._said, []
        for step_id, kind, data in said:
            note(self._snapshot, self._clock.now(), changes, kind, data, step_id)

    async def _run_pure(self, changes: Changes, done: int) -> int:
        """Run the pure steps among the new starts right away: repeating them after a crash changes nothing."""
        for start in changes.starts[done:]:
            if self._workflow.by_id[start.step_id].effect is Effect.PURE:
                outcome = await self._attempt(start)
                self._snapshot.steps[start.step_id].report(outcome, self._clock.now())
                self._take_said(changes)
        return len(changes.starts)

    def _sleep_if_idle(self, changes: Changes) -> None:
        snapshot = self._snapshot
        if snapshot.status.terminal or snapshot.running or snapshot.stop is not None:
            return
        wake_at = next_wake(snapshot)
        if wake_at is not None and wake_at - self._clock.now() > timedelta(seconds=HOLD_SECONDS):
            suspend(snapshot, self._clock.now(), changes)

    @property
    def sleep_seconds(self) -> float | None:
        """After `run`: how long until a sleeping execution wants to wake, None if it does not sleep."""
        wake_at = next_wake(self._snapshot) if self._asleep else None
        return None if wake_at is None else max((wake_at - self._clock.now()).total_seconds(), 0.0)

    @property
    def _asleep(self) -> bool:
        return self._snapshot.status is ExecutionStatus.WAITING

    async def _record(self, changes: Changes, read_mail: list[str]) -> bool:
        """Write the transition, if there is anything to write; False if the execution is no longer ours."""
        if not (changes.events or changes.steps or read_mail or self._asleep):
            return True
        transition = build_transition(
            self._fence,
            self._recorded.write_no + 1,
            self._workflow,
            self._snapshot,
            changes,
            now=self._clock.now(),
            wake_at=next_wake(self._snapshot) if self._asleep else None,
            read_mail=read_mail,
            audit_id=clock.new_id("audit") if changes.ending is not None else None,
        )
        match await self._ports.recorder.record(transition):
            case Recorded():
                self._recorded = Position.of(transition)
                tell(self._workflow, transition)
                return True
            case LeaseLost():
                log.warning("lease_lost", execution_id=self._claim.id, epoch=self._claim.epoch)
                return False
            case Rejected(reason):
                log.error("transition_rejected", execution_id=self._claim.id, reason=reason)
                failure = Failure(
                    "record_rejected", f"The database refused to record the run: {reason}", retryable=False
                )
                await self.give_up(failure)
                return False

    async def _launch(self, starts: Sequence[StartStep]) -> bool:
        """Start the attempts whose start is now durable; False if the lease is lost."""
        effectful = [start for start in starts if self._workflow.by_id[start.step_id].effect is not Effect.PURE]
        if not effectful or self._snapshot.stop is not None:
            return True
        if not await self._ports.lease_trusted(self._claim.owner):
            return False
        for start in effectful:
            self._spawn(start)
        return True

    def _spawn(self, start: StartStep) -> None:
        context = self._context(start)
        task = asyncio.create_task(self._attempt(start, context), name=f"{self._claim.id}/{start.step_id}")
        self._attempts[start.step_id] = RunningAttempt(task, context)
        task.add_done_callback(lambda ended: self._ended(start.step_id, ended))

    def _context(self, start: StartStep) -> AttemptContext:
        return AttemptContext(
            execution_id=self._claim.id,
            org_id=self._claim.org_id,
            step_id=start.step_id,
            attempt=self._snapshot.steps[start.step_id].attempt,
            idempotency_key=idempotency_key(self._claim.root_id, start.step_id, start.config),
            say=self._say,
        )

    async def _attempt(self, start: StartStep, context: AttemptContext | None = None) -> Outcome:
        step = self._workflow.by_id[start.step_id]
        step_type = self._ports.step_type(step.definition.type)
        return await run_attempt(step, step_type, context or self._context(start), start.config, self._ports.rules)

    def _say(self, step_id: str, kind: str, data: EventData) -> None:
        self._said.append((step_id, kind, data))
        self._fact.set()

    def _ended(self, step_id: str, task: "asyncio.Task[Outcome]") -> None:
        if self._attempts.pop(step_id, None) is not None:
            outcome = Aborted() if task.cancelled() else task.result()
            self._snapshot.steps[step_id].report(outcome, self._clock.now())
            self._fact.set()

    def _abort_if_stopping(self) -> None:
        """Cancel what runs; what has not ended after the grace is given up."""
        if self._snapshot.stop is None:
            return
        loop = asyncio.get_running_loop()
        timed_out = self._snapshot.stop.reason is StopReason.TIMED_OUT
        for step_id, running in self._attempts.items():
            if not running.context.cancelled:
                running.context.cancelled = True
                running.task.cancel()
                grace = 0.0 if timed_out else self._ports.cancel_grace
                loop.call_later(grace, self._force, step_id)
        for step_id in self._snapshot.running:
            if step_id not in self._attempts and self._snapshot.steps[step_id].outcome is None:
                self._snapshot.steps[step_id].report(Aborted(), self._clock.now())
                self._fact.set()

    def _force(self, step_id: str) -> None:
        if self._attempts.pop(step_id, None) is not None:
            self._snapshot.steps[step_id].report(Aborted(), self._clock.now())
            self._fact.set()

    async def _next_fact(self) -> None:
        """Sleep until something happens or the next time is due."""
        wake_at = next_wake(self._snapshot)
        seconds = None if wake_at is None else max((wake_at - self._clock.now()).total_seconds(), 0.0)
        try:
            async with asyncio.timeout(seconds):
                await self._fact.wait()
        except TimeoutError:
            return

    def _abandon_attempts(self) -> None:
        attempts, self._attempts = self._attempts, {}
        for running in attempts.values():
            running.context.close()
            running.task.cancel()
