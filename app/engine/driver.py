"""One execution's life in this process: plan, record, run what was decided, until it ends, sleeps or is lost.

Guarantees. One transition is in flight at a time; what happens meanwhile is merged into the next one. A step whose
effect the world can see starts only after the transition that says so is durable, and only while the lease is trusted.
If the lease is lost the driver stops without writing anything: the next owner goes on from the record.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from app import clock
from app.crashpoints import crashpoint
from app.domain.changes import Changes, note
from app.domain.compiled import CompiledStep, CompiledWorkflow
from app.domain.control import Pause, PauseReason, StopReason, control_json
from app.domain.decisions import StartStep
from app.domain.errors import Failure, Unavailable
from app.domain.events import EventData, StepLog
from app.domain.evolution import evolve, suspend
from app.domain.intake import take_in
from app.domain.jsontext import encode
from app.domain.mail import Mail
from app.domain.planner import next_wake, plan
from app.domain.snapshot import Snapshot
from app.domain.starting import MOST_STARTS
from app.domain.states import ExecutionStatus
from app.domain.step_state import Aborted, Outcome, Succeeded
from app.domain.steps import Effect
from app.engine.attempt import AttemptContext, OutputRules, RunScope, run_attempt, run_cached
from app.engine.budgets import Budgets
from app.engine.children import Children, ChildRequest, Turn
from app.engine.failsafe import Position, give_up
from app.engine.ports import Claim, LeaseLost, Recorded, Recorder, Rejected, ResultCache
from app.engine.recorded_time import RecordedClock
from app.engine.restore import restore
from app.engine.run_log import tell
from app.engine.running_attempts import RunningAttempts
from app.engine.secrets import Secrets
from app.engine.step_types import Run, StepType
from app.engine.transition import Fence, Release, build_transition

HOLD = timedelta(seconds=1)
"""A wait up to this long is sat out in memory; a longer one is recorded as WAITING and gives up the lease."""

LONGEST_PAUSE = 2.0
"""Between two tries to start an execution while the database is away."""
SAID_LIMIT = 2_000
"""What a run may say between two commits; what is said beyond is counted, not kept."""
MERGED_STEPS = 500
"""Steps and items that one transition changes: what is decided beyond waits for the next one."""
ASLEEP = frozenset({ExecutionStatus.PENDING, ExecutionStatus.WAITING, ExecutionStatus.PAUSED})
OUTCOME_BYTES = 8 << 20
"""Outcomes of one transition: more of them wait for the next one, so that a statement stays of a size to send."""

log = structlog.get_logger("engine")


@dataclass(frozen=True, slots=True)
class DriverPorts:
    """What a driver works with; shared by all drivers of a process."""

    recorder: Recorder
    step_type: Callable[[str], StepType]
    read_mail: Callable[[str], Awaitable[Sequence[Mail]]]
    lease_trusted: Callable[[str], Awaitable[bool]]
    children: Children
    cache: ResultCache
    budgets: Budgets
    secrets: Secrets
    rules: OutputRules
    cancel_grace: float

    async def give_up(self, claim: Claim, failure: Failure) -> None:
        """End a claimed execution as FAILED before it could be driven."""
        fence = Fence(claim.id, claim.org_id, claim.owner, claim.epoch)
        recorded = Position(claim.write_no, claim.next_seq, claim.progress)
        await give_up(fence, recorded, self.recorder, failure, RecordedClock(claim).now())


class Driver:
    """Drives one claimed execution. `run` is the main path."""

    def __init__(self, claim: Claim, workflow: CompiledWorkflow, ports: DriverPorts) -> None:
        self._claim = claim
        self._workflow = workflow
        self._ports = ports
        self._rules = ports.rules.with_own_scrubber() if workflow.secret_names else ports.rules
        self._clock = RecordedClock(claim)
        self._snapshot: Snapshot = restore(workflow, claim)
        self._scope = RunScope(
            claim.id, claim.org_id, claim.root_id, self._snapshot.control.hops,
            self._rules, self._clock.now, self._say, self._start_child,
        )  # fmt: skip
        self._fence = Fence(claim.id, claim.org_id, claim.owner, claim.epoch)
        self._recorded = Position(claim.write_no, claim.next_seq, claim.progress)
        self._attempts = RunningAttempts(self._report, self._rules.message, ports.cancel_grace)
        self._outcomes: deque[tuple[str, Outcome, datetime]] = deque()
        self._said: list[tuple[str, str, EventData]] = []
        self._unsaid: defaultdict[str, int] = defaultdict(int)
        self._in_place = False
        self._unread: list[Mail] = list(claim.mail)
        self._has_mail = False
        self._control_text = claim.control_text
        self._fact = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Drive until the execution ends, goes to sleep, or is no longer ours."""
        try:
            await self._know_secrets()
            while True:
                changes, now = await self._advance()
                if not await self._record(changes, now):
                    return
                if self._snapshot.status.terminal or self._asleep:
                    return
                if not await self._launch(changes.starts):
                    return
                self._abort_if_stopping()
                await self._next_fact()
        finally:
            await self._attempts.abandon()
            del self._scope  # it refers to this driver: in a circle, both would wait for a garbage collection

    async def _know_secrets(self) -> None:
        names = self._workflow.secret_names
        if names:
            await self._ports.secrets.make_known(self._claim.org_id, names, self._rules.scrubber)

    def ring(self) -> None:
        """There may be mail."""
        self._has_mail = True
        self._fact.set()

    async def give_up(self, failure: Failure) -> None:
        """End the execution as FAILED from what is recorded, when nothing better can be said."""
        await give_up(self._fence, self._recorded, self._ports.recorder, failure, self._clock.now())

    async def _advance(self) -> tuple[Changes, datetime]:
        """Take in every fact that has arrived and decide until nothing is left to decide; what changed, and when."""
        self._fact.clear()
        changes = Changes()
        if self._has_mail or self._unread or not self._snapshot.goes_on:
            await self._take_mail(changes)
        self._take_outcomes()
        launched, now = 0, self._clock.now()
        self._take_said(changes, now)
        self._hear_of_spending(changes)
        while decisions := plan(self._workflow, self._snapshot, now):
            for decision in decisions:
                evolve(self._workflow, self._snapshot, decision, now, changes)
            if self._snapshot.shared_budgets:
                self._hear_of_spending(changes)
            if len(decisions) >= MOST_STARTS:
                await asyncio.sleep(0)  # other runs, heartbeats and requests come in between
                now = self._clock.now()
            if len(changes.starts) > launched:
                now = await self._run_pure(changes.starts[launched:], changes, now)
                launched = len(changes.starts)
            if len(changes.steps) >= MERGED_STEPS and not self._snapshot.status.terminal:
                self._fact.set()
                return changes, now
        self._sleep_if_idle(changes, now)
        return changes, now

    def _hear_of_spending(self, changes: Changes) -> None:
        claim = self._claim
        self._snapshot.shared_budgets = self._ports.budgets.of(claim.org_id, claim.workflow_id, changes.spent)

    async def _take_mail(self, changes: Changes) -> None:
        """Take in the mail that has come."""
        if self._has_mail:
            self._has_mail = False
            try:
                self._unread.extend(await self._ports.read_mail(self._claim.id))
            except Unavailable as error:
                log.warning("mail_waits", execution_id=self._claim.id, reason=error.detail)  # the postman rings again
        mail, self._unread = self._unread, []
        if mail:
            take_in(self._workflow, self._snapshot, mail, self._clock.now(), changes)
            changes.read += [item.id for item in mail if not item.taken]
        if self._snapshot.control.stop is not None:
            crashpoint("in_cancel")
        if self._snapshot.control.pause is not None:
            await self._hear_of_budgets(self._snapshot.control.pause)

    async def _hear_of_budgets(self, pause: Pause) -> None:
        """Whoever goes on after a budget was used up may have raised it a moment ago."""
        if pause.lifted and pause.reason is PauseReason.BUDGET_EXCEEDED:
            try:
                await self._ports.budgets.refresh()
            except Unavailable as error:
                log.warning("budgets_wait", execution_id=self._claim.id, reason=error.detail)

    def _take_said(self, changes: Changes, now: datetime) -> None:
        if not self._said:
            return
        said, self._said = self._said, []
        for path, kind, data in said:
            note(self._snapshot, now, changes, kind, data, path)
        for path, count in self._unsaid.items():
            known = StepLog(level="warning", message=f"{count} further messages came too fast and were not kept")
            note(self._snapshot, now, changes, "step_log", known, path)
        self._unsaid.clear()

    def _take_outcomes(self) -> None:
        size = 0
        while self._outcomes and size < OUTCOME_BYTES:
            path, outcome, at = self._outcomes.popleft()
            self._snapshot.report(path, outcome, at)
            size += len(outcome.output_text) if isinstance(outcome, Succeeded) else 0
        if self._outcomes:
            self._fact.set()

    async def _run_pure(self, starts: Sequence[StartStep], changes: Changes, now: datetime) -> datetime:
        """Run the pure steps among these right away: repeating them after a crash changes nothing. The time then."""
        for start in starts:
            step = self._workflow.step(start.path)
            if step.effect is Effect.PURE:
                outcome, now = await self._carry_out(step, start), self._clock.now()
                self._snapshot.report(start.path, outcome, now)
                self._take_said(changes, now)
        return now

    def _sleep_if_idle(self, changes: Changes, now: datetime) -> None:
        snapshot = self._snapshot
        if snapshot.status.terminal or snapshot.running or snapshot.control.stop is not None or not snapshot.may_run:
            return
        wake_at = next_wake(snapshot)
        if wake_at is None or wake_at - now > HOLD:
            suspend(snapshot, now, changes)

    @property
    def sleep_seconds(self) -> float | None:
        """After `run`: how long until a sleeping execution wants to wake, None if it does not sleep for a time."""
        if not self._asleep:
            return None
        release = self._release()
        if release.ready or release.wake_at is None:
            return 0.0 if release.ready else None
        return max((release.wake_at - self._clock.now()).total_seconds(), 0.0)

    @property
    def has_mail(self) -> bool:
        """After `run`: somebody rang when it was too late to look."""
        return self._has_mail

    @property
    def _asleep(self) -> bool:
        if self._snapshot.status.terminal:
            return False
        return self._snapshot.status in ASLEEP or not self._snapshot.may_run

    def _release(self) -> Release:
        """How a sleeping execution goes back to the queue. Without a slot it may have found something to do."""
        snapshot, now = self._snapshot, self._clock.now()
        if snapshot.status is ExecutionStatus.PENDING:
            start_at = snapshot.control.start_at
            return Release(start_at, ready=start_at is None or start_at <= now)
        wishes = not snapshot.may_run and bool(plan(self._workflow, replace(snapshot, may_run=True), now))
        return Release(next_wake(snapshot), ready=wishes)

    async def _record(self, changes: Changes, now: datetime) -> bool:
        """Write the transition, if there is anything to write; False if the execution is no longer ours."""
        control_text = encode(control_json(self._snapshot.control))
        controlled = control_text != self._control_text
        if not (changes.events or changes.steps or changes.used or changes.read or controlled or self._asleep):
            return True
        if changes.ending is not None:
            await self._attempts.seen_through()  # the end is told to every child there is
        transition = build_transition(
            self._fence,
            self._recorded.write_no + 1,
            self._workflow,
            self._snapshot,
            changes,
            now=now,
            release=self._release() if self._asleep else None,
            control_text=control_text if controlled else None,
            new_id=clock.new_id,
        )
        match await self._ports.recorder.record(transition):
            case Recorded():
                self._recorded = Position.of(transition)
                self._control_text = control_text
                self._ports.budgets.spend(self._claim.org_id, self._claim.workflow_id, changes.spent)
                tell(self._workflow, transition, self._snapshot.started_at)
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
        steps = [(self._workflow.step(start.path), start) for start in starts]
        effectful = [(step, start) for step, start in steps if step.effect is not Effect.PURE]
        if not effectful:
            return True
        if self._snapshot.control.stop is not None:
            for _, start in effectful:
                self._report(start.path, Aborted())
            return True
        if not await self._ports.lease_trusted(self._claim.owner):
            return False
        for step, start in effectful:
            if step.immediate:
                self._report(start.path, await self._carry_out(step, start))
            else:
                self._spawn(step, start)
        return True

    async def _carry_out(self, step: CompiledStep, start: StartStep) -> Outcome:
        """Make an attempt in place; what it says is taken in with its outcome."""
        self._in_place = True
        try:
            return await self._attempt(step, start, self._context(step, start))
        finally:
            self._in_place = False

    def _spawn(self, step: CompiledStep, start: StartStep) -> None:
        context = self._context(step, start)
        attempt = self._effect(step, start, context)
        self._attempts.begin(start.path, step, context, attempt, f"{self._claim.id}/{start.path}")

    async def _effect(self, step: CompiledStep, start: StartStep, context: AttemptContext) -> Outcome:
        """An attempt that the world may see; since its launch the process may have stood still longer than a lease."""
        if not await self._ports.lease_trusted(self._claim.owner):
            return Aborted()  # and so will be this driver
        return await self._attempt(step, start, context)

    def _context(self, step: CompiledStep, start: StartStep) -> AttemptContext:
        state = self._snapshot.state(start.path)
        turn = Turn(start.path, state.iteration, state.failures, self._snapshot.control.again.get(step.id, 0))
        return AttemptContext(self._scope, turn, state.attempt, start.config_text)

    async def _start_child(self, turn: Turn, request: ChildRequest) -> str:
        """Start an execution for a step; a database that is away is no failure of the step, but waited for."""
        pause = 0.1
        while True:
            try:
                return await self._attempts.see_through(self._ports.children.start(self._claim, turn, request))
            except Unavailable as error:
                log.warning("child_waits", execution_id=self._claim.id, reason=error.detail, retry_in=pause)
            await asyncio.sleep(pause * (0.5 + clock.jitter() / 2))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _attempt(self, step: CompiledStep, start: StartStep, context: AttemptContext) -> Outcome:
        run: Run = self._ports.step_type(step.definition.type).run
        if step.secrets:
            run = partial(self._ports.secrets.run, step, self._rules.scrubber, run)
        if start.cache_key is None:
            return await run_attempt(step, run, context, start.config, self._rules)
        make = partial(run_attempt, step, run, context, start.config, self._rules)
        return await run_cached(self._ports.cache, start.cache_key, step, context, make)

    def _say(self, path: str, kind: str, data: EventData) -> None:
        if len(self._said) < SAID_LIMIT:
            self._said.append((path, kind, data))
        else:
            self._unsaid[path] += 1
        if not self._in_place:
            # Soon, not now: what ends while it speaks is recorded with its last words.
            self._loop.call_soon(self._fact.set)

    def _report(self, path: str, outcome: Outcome) -> None:
        self._outcomes.append((path, outcome, self._clock.now()))
        self._fact.set()

    def _abort_if_stopping(self) -> None:
        stop = self._snapshot.control.stop
        if stop is not None:
            self._attempts.abort(0.0 if stop.reason is StopReason.TIMED_OUT else self._ports.cancel_grace)

    async def _next_fact(self) -> None:
        """Sleep until something happens or the next time is due."""
        if self._fact.is_set():
            return
        wake_at = next_wake(self._snapshot)
        if wake_at is None:
            await self._fact.wait()
            return
        try:
            async with asyncio.timeout(max((wake_at - self._clock.now()).total_seconds(), 0.0)):
                await self._fact.wait()
        except TimeoutError:
            # The bell may be late: what was sent before a wait runs out still counts.
            self._has_mail = self._has_mail or self._snapshot.awaits_letters
