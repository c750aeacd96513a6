"""A process that drives a run by the rules of `app.engine.driver`, and the record that outlives it.

`Record` keeps what the database would: the rows that transitions leave, and the mail. `Process` forgets everything else
when it dies.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from math import inf
from typing import Any

from app.domain.changes import Changes, Event
from app.domain.compiled import CompiledWorkflow
from app.domain.control import StopReason, control_json
from app.domain.decisions import (
    BeginStop,
    CompleteStep,
    Decision,
    FailStep,
    ParkStep,
    PassGate,
    RepeatStep,
    RetryStep,
    StartStep,
)
from app.domain.events import ExecutionQueued
from app.domain.evolution import evolve, suspend
from app.domain.intake import take_in
from app.domain.jsontext import decode, encode
from app.domain.mail import LETTERS, Mail, MailKind
from app.domain.planner import next_wake, plan
from app.domain.snapshot import Snapshot, split_path
from app.domain.states import LEGAL, LEGAL_STEP, TERMINAL, ExecutionStatus
from app.domain.step_state import Aborted, Failed, Outcome
from app.domain.steps import Effect
from app.domain.waits import ChildWait, topics, wait_from
from app.engine.driver import ASLEEP, HOLD
from app.engine.ports import Claim
from app.engine.restore import restore
from app.engine.rows import StepRow, StoredStep
from app.engine.transition import Fence, Release, Transition, build_transition
from tests.property.workflows import pure_outcome

START = datetime(2026, 1, 1, tzinfo=UTC)
FREELY_SLEEPING = {"PENDING", "WAITING", "PAUSED"}


@dataclass
class Record:
    """What is durable. `taken` is mail that was taken note of, `used` letters with the path that used them.

    `children` are the executions that were waited for, `given_up` those that were told to cancel themselves.
    """

    events: list[Event]
    rows: dict[str, StepRow] = field(default_factory=dict)
    attempts: dict[tuple[str, int], str] = field(default_factory=dict)
    mail: list[Mail] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    used: dict[str, str] = field(default_factory=dict)
    approvals: dict[str, str] = field(default_factory=dict)
    children: set[str] = field(default_factory=set)
    given_up: list[str] = field(default_factory=list)
    ready: bool = True
    fields: dict[str, Any] = field(
        default_factory=lambda: {
            "status": "PENDING", "progress": 0, "next_seq": 2, "write_no": 0, "agent_results_text": "{}",
            "started_at": None, "deadline_at": None, "last_recorded_at": None, "control_text": "{}", "wake_at": None,
        }
    )  # fmt: skip

    def claim(self, at: datetime, *, may_run: bool = True, verdict: str | None = None) -> Claim:
        return Claim(
            id="exec_1", org_id="org_1", workflow_id="wf_1", workflow_version=1, user_id="user_1", root_id="exec_1",
            input_text=encode(True), created_at=START, owner="worker_1", epoch=1, recoveries=0, claimed_at=at,
            steps=[stored(row) for row in self.rows.values()], mail=self._all_mail(), may_run=may_run, verdict=verdict,
            **self.fields,
        )  # fmt: skip

    def unread(self) -> list[Mail]:
        return [mail for mail in self.mail if mail.id not in self.taken]

    def letters(self) -> list[Mail]:
        """Those that were taken note of and not used."""
        kept = [mail for mail in self.mail if mail.kind in LETTERS and mail.id in self.taken]
        return [replace(mail, taken=True) for mail in kept if mail.id not in self.used]

    def _all_mail(self) -> list[Mail]:
        return sorted([*self.unread(), *self.letters()], key=lambda mail: mail.id)

    def add(self, transition: Transition) -> None:
        self.events += transition.events
        self.rows |= {step.path: step for step in transition.steps}
        for attempt in transition.attempts:
            assert (attempt.path, attempt.attempt) not in self.attempts, "one row for each attempt"
            assert attempt.started_at is not None
            assert attempt.started_at <= attempt.completed_at
            self.attempts[attempt.path, attempt.attempt] = attempt.status
        waits = [wait_from(decode(step.awaits_text)) for step in transition.steps if step.awaits_text is not None]
        self.children |= {wait.execution_id for wait in waits if isinstance(wait, ChildWait)}
        self.given_up += [one.receiver for one in transition.outgoing if one.kind == MailKind.CANCEL]
        for mark in transition.mail:
            self.taken.add(mark.mail_id)
            if mark.used_by is not None:
                assert mark.mail_id not in self.used, "a letter is used once"
                self.used[mark.mail_id] = mark.used_by
        assert len({one.id for one in transition.approvals}) == len(transition.approvals), (
            "a statement writes a row once"
        )
        for approval in transition.approvals:
            assert self.approvals.get(approval.id, "PENDING") == "PENDING", "an approval ends once"
            assert approval.deadline_at is not None
            self.approvals[approval.id] = approval.status
        row = transition.row
        self.fields |= {"status": row.status, "last_recorded_at": row.recorded_at, "wake_at": row.wake_at}
        self.ready = row.ready
        for name in ("progress", "next_seq", "write_no", "agent_results_text", "started_at", "deadline_at"):
            if (value := getattr(row, name)) is not None:
                self.fields[name] = value
        self.fields["control_text"] = row.control_text or self.fields["control_text"]


def stored(row: StepRow) -> StoredStep:
    """What is read back of a step."""
    unread = {"execution_id", "number", "name", "type"}
    values = {name: value for name, value in row._asdict().items() if name not in unread}
    return StoredStep(**values | {"ports": frozenset(row.ports or ())})


class Process:
    """One execution and whoever owns it. `merged` is how many steps one transition changes before the next one begins.

    By path: `launched` are the attempts that really began, `saw` what each looked at, `parked` when a wait may run out,
    in seconds of the run's time. `marks` are words for what `tests.property.reach` cannot tell from the record.
    """

    def __init__(
        self, workflow: CompiledWorkflow, control: Any = None, merged: int = 500, start_in: float | None = None
    ) -> None:
        self.workflow = workflow
        self.now = START
        queued = ExecutionQueued(workflow_id="wf_1", workflow_version=1)
        self.record = Record([Event(1, "execution_queued", None, START, 0, queued)])
        self.record.fields["control_text"] = encode(control or {})
        self.start_at = START if start_in is None else START + timedelta(seconds=start_in)
        if start_in is not None:
            self.record.ready, self.record.fields["wake_at"] = False, self.start_at
        self.running: set[str] = set()
        self.launched: defaultdict[str, list[str]] = defaultdict(list)
        self.seen: list[tuple[str, str]] = []
        self.saw: dict[tuple[str, int], dict[str, Any]] = {}
        self.marks: set[str] = set()
        self.parked: dict[str, float] = {}
        self.merged = merged
        self.owned = False
        self._unread: list[Mail] = []
        self._ids = count(1)
        self.snapshot: Snapshot = restore(workflow, self.record.claim(self.tick()))

    def tick(self, seconds: float = 0.0) -> datetime:
        """Recorded time: it never stands still for long."""
        self.now += timedelta(seconds=seconds, microseconds=1)
        return self.now

    # What the queue does.

    def serve(self) -> None:
        """Give the run an owner if it wants one, and let the owner hear of its mail."""
        if self.ended:
            return
        if not self.owned:
            if self.wants_slot:
                self.claim()
            elif self.record.unread() and self.sleeps_freely:
                self.claim(may_run=False)
            else:
                return
        else:
            self.hear()
        self.go_on()

    @property
    def sleeps_freely(self) -> bool:
        """Without an owner and without a slot."""
        return not self.owned and self.record.fields["status"] in FREELY_SLEEPING

    @property
    def wants_slot(self) -> bool:
        wake_at = self.record.fields["wake_at"]
        due = wake_at is not None and wake_at <= self.now
        return not self.owned and (self.record.ready or (due and self.sleeps_freely))

    def claim(self, *, may_run: bool = True, verdict: str | None = None) -> None:
        """A new owner, who knows the record only."""
        assert not self.owned
        assert may_run or self.sleeps_freely, "whoever was RUNNING still holds a slot"
        fields, at = self.record.fields, self.tick()
        if self.record.ready and fields["status"] in {"WAITING", "PAUSED"}:
            fields["wake_at"] = min(fields["wake_at"] or at, at)
        claim = self.record.claim(at, may_run=may_run, verdict=verdict)
        self.marks.add(f"claimed {fields['status']} {'with' if may_run else 'without'} a slot, verdict {verdict}")
        self.owned, self.record.ready = True, False
        self.snapshot = restore(self.workflow, claim)
        self._unread = [*claim.mail]

    def restored(self) -> Snapshot:
        """The run as its record has it."""
        snapshot = restore(self.workflow, self.record.claim(self.now))
        take_in(self.workflow, snapshot, self.record.letters(), self.now, Changes())
        return snapshot

    def die(self) -> None:
        """What is not recorded is lost."""
        self.marks.add(f"died {self.record.fields['status']}")
        for path in self.running:
            self.launched[path][-1] = "lost"
        self.running.clear()
        self.owned = False
        self.snapshot = self.restored()
        status, wake_at = self.record.fields["status"], self.record.fields["wake_at"]
        due = wake_at is not None and wake_at <= self.now
        self.record.ready = status in {"RUNNING", "CANCELLING"} or due or (status == "PENDING" and wake_at is None)

    def send(self, kind: str, payload: Any, user: str | None = "user_1", topic: str | None = None) -> None:
        mail = Mail(f"mail_{len(self.record.mail):05d}", kind, payload, user, topic, self.tick())
        self.record.mail.append(mail)

    def hear(self) -> None:
        self._unread = self.record.unread()

    # What the driver does.

    def ends(self, path: str, outcome: Outcome) -> None:
        """An attempt that is under way reports."""
        self.running.discard(path)
        self.launched[path][-1] = "failed" if isinstance(outcome, Failed) else "done"
        self.snapshot.report(path, outcome, self.tick())

    def go_on(self) -> None:
        """Rounds of the driver: decide, record, launch, abort; until there is no fact left."""
        more = True
        while more:
            changes, more = self.decide()
            self.write(changes)
            if self.ended or self.asleep:
                assert not self.running or (
                    self.snapshot.control.stop is not None and self.snapshot.control.stop.forced
                )
                self.running.clear()
                self.owned = False
                return
            more = self._launch(changes.starts) or more

    def decide(self) -> tuple[Changes, bool]:
        """Take in the mail and decide until nothing is left to decide, or enough is to be recorded."""
        changes = Changes()
        mail, self._unread = self._unread, []
        take_in(self.workflow, self.snapshot, mail, self.tick(), changes)
        changes.read += [item.id for item in mail if not item.taken]
        ran = 0
        while decisions := plan(self.workflow, self.snapshot, now := self.tick()):
            assert decisions == plan(self.workflow, self.snapshot, now), "the same facts, the same decisions"
            for decision in decisions:
                before = self._statuses()
                self._check(decision)
                evolve(self.workflow, self.snapshot, decision, self.tick(), changes)
                self._check_moves(before)
            for start in changes.starts[ran:]:
                self._look(start)
            ran = len(changes.starts)
            if len(changes.steps) >= self.merged and not self.ended:
                return changes, True
        self._sleep_if_idle(changes)
        return changes, False

    def _sleep_if_idle(self, changes: Changes) -> None:
        snapshot = self.snapshot
        if self.ended or snapshot.running or snapshot.control.stop is not None or not snapshot.may_run:
            return
        wake_at = next_wake(snapshot)
        if wake_at is None:
            waits = [state.awaited for _, state in snapshot.unsettled()]
            paused = snapshot.status is ExecutionStatus.PAUSED and snapshot.control.pause is not None
            assert paused or any(isinstance(wait, ChildWait) for wait in waits), f"nothing would move it: {snapshot}"
        if wake_at is None or wake_at - self.tick() > HOLD:
            suspend(snapshot, self.tick(), changes)

    def _release(self) -> Release:
        snapshot = self.snapshot
        if snapshot.status is ExecutionStatus.PENDING:
            start_at = snapshot.control.start_at
            return Release(start_at, ready=start_at is None or start_at <= self.now)
        wishes = not snapshot.may_run and bool(plan(self.workflow, replace(snapshot, may_run=True), self.tick()))
        return Release(next_wake(snapshot), ready=wishes)

    def write(self, changes: Changes) -> None:
        control_text = encode(control_json(self.snapshot.control))
        transition = build_transition(
            Fence("exec_1", "org_1", "worker_1", 1), self.record.fields["write_no"] + 1, self.workflow, self.snapshot,
            changes, now=self.tick(), release=self._release() if self.asleep else None,
            control_text=control_text if control_text != self.record.fields["control_text"] else None,
            new_id=lambda kind: f"{kind}_{next(self._ids)}",
        )  # fmt: skip
        assert transition.row.releases == (self.ended or self.asleep)
        self.record.add(transition)

    def _look(self, start: StartStep) -> None:
        """A pure step runs at once; what each step saw of its ancestors is kept."""
        step = self.workflow.step(start.path)
        self.seen += start.config["seen"].items()
        self.saw[start.path, self.snapshot.state(start.path).attempt] = start.config.get("outputs", {})
        if step.effect is Effect.PURE:
            turn = str(self.snapshot.state(start.path).attempt)
            outcome = pure_outcome(step.definition.type, start, turn)
            self.snapshot.report(start.path, outcome, self.tick())

    def _launch(self, starts: Sequence[StartStep]) -> bool:
        """Begin the attempts whose start is recorded; those of a run that is being stopped are given up instead."""
        effectful = [start.path for start in starts if self.workflow.step(start.path).effect is not Effect.PURE]
        for path in effectful:
            if self.snapshot.control.stop is not None:
                self.snapshot.report(path, Aborted(), self.tick())
            else:
                self.launched[path].append("under way")
                self.running.add(path)
        return bool(effectful) and self.snapshot.control.stop is not None

    # What a decision must respect.

    def _statuses(self) -> tuple[Any, dict[str, Any]]:
        return self.snapshot.status, {name: state.status for name, state in self.snapshot.steps.items()}

    def _check(self, decision: Decision) -> None:
        match decision:
            case StartStep(path=path):
                self._check_start(path)
            case ParkStep(path=path, parked=parked):
                self.parked[path] = self.active_seconds() + (inf if parked.seconds is None else parked.seconds)
            case CompleteStep() | RepeatStep() | FailStep() | RetryStep():
                assert self.snapshot.may_run, "nothing is settled without a slot"
                self._check_letters(decision.path, decision.letters)
            case PassGate(letters=letters) if letters:
                assert {self._mail(letter).topic for letter in letters} == {"appr_1"}
            case BeginStop(stop=stop) if stop.reason is StopReason.TIMED_OUT:
                limit = self.workflow.definition.timeout
                assert limit is not None
                assert self.active_seconds() >= limit - 0.001, "PAUSED time does not count"

    def _check_start(self, path: str) -> None:
        snapshot, step = self.snapshot, self.workflow.step(path)
        control, item = snapshot.control, split_path(path)[1] is not None
        assert snapshot.control.stop is None, "nothing starts in a run that is being stopped"
        assert control.pause is None, "nothing starts in a run that is held"
        assert snapshot.status is ExecutionStatus.RUNNING
        assert snapshot.may_run, "nothing starts without a slot"
        assert step.id not in control.breakpoints - control.passed
        assert control.steps_left != 0
        assert control.budget.max_steps is None or snapshot.starts < control.budget.max_steps
        handles_failure = step.run_if in {"any_failed", "all_done"} or item or control.only is not None
        assert snapshot.first_failure is None or handles_failure or snapshot.state(path).attempt
        assert control.only in {None, step.id}
        if item and split_path(path)[1] not in snapshot.maps[step.id].active:
            assert len(snapshot.maps[step.id].active) < step.definition.max_parallel

    def _check_letters(self, path: str, letters: Sequence[str]) -> None:
        awaited = next((state.awaited for name, state in self.snapshot.unsettled() if name == path), None)
        if letters:
            assert awaited is not None
            assert {self._mail(letter).topic for letter in letters} <= {*topics(awaited)}
        elif awaited is not None:
            assert self.active_seconds() >= self.parked[path] - 0.001, "no wait ends before its time"

    def _check_moves(self, before: tuple[Any, dict[str, Any]]) -> None:
        status, steps = self._statuses()
        assert status is before[0] or status in LEGAL[before[0]], (before[0], status)
        for name, new in steps.items():
            old = before[1][name]
            assert new is old or new in LEGAL_STEP[old], (name, old, new)
        for step_id, items in self.snapshot.maps.items():
            assert len(items.active) <= self.workflow.by_id[step_id].definition.max_parallel

    def _mail(self, mail_id: str) -> Mail:
        return next(mail for mail in self.record.mail if mail.id == mail_id)

    def active_seconds(self) -> float:
        """The time since the run began, but for what it was PAUSED, by its events."""
        total, since, began = 0.0, None, False
        for event in self.record.events:
            began = began or event.type == "execution_started"
            if began and event.type in {"execution_started", "execution_resumed"} and since is None:
                since = event.timestamp
            elif event.type == "execution_paused" and since is not None:
                total, since = total + (event.timestamp - since).total_seconds(), None
        return total if since is None else total + (self.now - since).total_seconds()

    @property
    def ended(self) -> bool:
        return self.snapshot.status in TERMINAL

    @property
    def asleep(self) -> bool:
        if self.ended:
            return False
        return self.snapshot.status in ASLEEP or not self.snapshot.may_run

    @property
    def due(self) -> bool:
        wake_at = next_wake(self.snapshot)
        return wake_at is not None and wake_at <= self.now
