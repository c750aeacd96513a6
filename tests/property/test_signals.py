"""Signals and the waits for them, in a thousand interleavings.

They are sent before, at and after a wait begins, to several waits that compete for the same names, while time runs out,
the run is paused, and workers die.

What a wait may get is told by the record alone: the signals sent so far that no wait has used.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from app.domain.compiled import CompiledWorkflow
from app.domain.decisions import CompleteStep, Decision, FailStep, RepeatStep
from app.domain.mail import Mail
from app.domain.states import ExecutionStatus
from app.domain.step_state import Succeeded
from app.domain.validation import check_definition
from app.domain.waits import SignalWait
from tests.property.invariants import facts
from tests.property.model import Process
from tests.property.workflows import SIGNALS, Types

pytestmark = pytest.mark.timeout(600)  # a failing example is made smaller for minutes before it is shown

Action: TypeAlias = tuple[Any, ...]

WAITS = (0.7, 4.9, 9.7, 99.5)
"""Seconds. No sum of the times that pass comes near one of them, so that a microsecond more or less changes nothing."""
TIMES = (0.1, 1.0, 5.0)


@st.composite
def waiting_workflows(draw: st.DrawFn) -> CompiledWorkflow:
    """One to four waits: begun with the run, when the test says so, or one behind another."""
    steps: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 4))):
        wait: dict[str, Any] = {
            "id": f"w{number}",
            "type": "listen",
            "with": {
                "seen": {},
                "names": draw(st.sampled_from([["alpha"], ["alpha", "beta"], ["beta"]])),
                "mode": draw(st.sampled_from(["any", "all"])),
                "on_timeout": draw(st.sampled_from(["fail", "continue"])),
                "seconds": draw(st.sampled_from(WAITS)),
            },
            "continue_on_error": True,
            "run_if": "all_done",
        }
        match draw(st.sampled_from(["at once", "opened", "opened", "behind"])):
            case "opened":
                steps.append({"id": f"g{number}", "type": "call", "with": {"seen": {}}})
                wait["needs"] = [f"g{number}"]
            case "behind" if number:
                wait["needs"] = [f"w{number - 1}"]
        match draw(st.sampled_from(["once", "once", "once", "each", "again"])):
            case "each":
                wait |= {"for_each": [1, 2, 3], "max_parallel": draw(st.integers(1, 3)), "on_item_error": "continue"}
            case "again":
                wait["repeat"] = {"until": "index >= 1", "max": 2, "interval": "0s"}
        steps.append(wait)
    checked = check_definition({"name": "Waits", "steps": steps}, Types())
    assert checked.workflow is not None, checked.problems
    return checked.workflow


SIGNAL = st.tuples(st.just("signal"), st.sampled_from(SIGNALS), st.booleans())
SIGNALS_AT_ONCE = st.tuples(st.just("signals"), st.lists(st.sampled_from(SIGNALS), min_size=2, max_size=4))
OPEN = st.tuples(st.just("open"), st.integers(0, 3))
TIME = st.tuples(st.just("time"), st.sampled_from(TIMES))
HOLD = st.tuples(st.sampled_from(["pause", "resume"]))
DEATHS = ("dies", "dies before it records")
DEATH = st.tuples(st.sampled_from(DEATHS), st.sampled_from((0.0, *TIMES)))


class Mailroom(Process):
    """Checks each end of a wait against the record of what was sent; `spent` are the signals used so far."""

    def __init__(self, workflow: CompiledWorkflow, merged: int = 500) -> None:
        self.spent: list[str] = []
        super().__init__(workflow, merged=merged)

    def act(self, action: Action) -> None:
        match action:
            case ("signal", name, heard):
                self.send("signal", len(self.record.mail), topic=name)
                if heard:
                    self.serve()
            case ("signals", names):
                for name in names:
                    self.send("signal", len(self.record.mail), topic=name)
                self.serve()
            case ("open", pick):
                if self.running:
                    self._open(sorted(self.running)[pick % len(self.running)])
            case ("time", seconds):
                self.tick(seconds)
                self.serve()
            case ("pause" | "resume" as kind,):
                self.send(kind, {})
                self.serve()
            case (kind, seconds):
                self._dies(seconds, decided=kind != "dies")

    def settle(self) -> None:
        """Let the queue serve it until it wants nothing but time."""
        while not self.ended and (self.wants_slot or (self.sleeps_freely and self.record.unread())):
            self.serve()

    def finish(self) -> None:
        for _ in range(40):
            if self.ended:
                break
            for path in sorted(self.running):
                self._open(path)
            self.act(("resume",))
            self.act(("time", 50.0))
        assert self.ended, self.snapshot

    def die(self) -> None:
        super().die()
        self.spent = [*self.record.used]

    def _open(self, path: str) -> None:
        self.ends(path, Succeeded({"ok": 1}, '{"ok":1}'))
        self.go_on()

    def _dies(self, seconds: float, *, decided: bool) -> None:
        if self.owned:
            if decided:
                self.hear()
                self.decide()
            self.die()
        self.tick(seconds)
        self.serve()

    def _check(self, decision: Decision) -> None:
        if isinstance(decision, CompleteStep | RepeatStep | FailStep):
            waits = {path: state for path, state in self.snapshot.unsettled() if isinstance(state.awaited, SignalWait)}
            state = waits.get(decision.path)
            if state is not None and isinstance(state.awaited, SignalWait):
                found = fitting(state.awaited, self.unspent())
                assert [*decision.letters] == found, "the first that were sent are used; only without them time is up"
                event(f"{state.awaited.mode} {'met' if found else 'timed out'}")
        super()._check(decision)
        self.spent += getattr(decision, "letters", ())

    def unspent(self) -> list[Mail]:
        return [mail for mail in self.record.mail if mail.kind == "signal" and mail.id not in self.spent]

    def check_rest(self) -> None:
        """Between two rounds of the driver."""
        if self.ended:
            return
        assert [mail.id for mail in self.snapshot.letters] == [mail.id for mail in self.record.letters()]
        assert facts(self, self.restored()) == facts(self, self.snapshot), "nothing is lost over a crash"
        if self.record.unread() or self.wants_slot or self.snapshot.control.held:
            return
        for path, state in self.snapshot.unsettled():
            if isinstance(state.awaited, SignalWait):
                assert not fitting(state.awaited, self.unspent()), f"{path} waits for what has come"

    def check_end(self) -> None:
        by_name = {name: [mail.id for mail in self.record.mail if mail.topic == name] for name in SIGNALS}
        for sent in by_name.values():
            used = [mail_id for mail_id in self.record.used if mail_id in sent]
            assert used == sent[: len(used)], "one after the other, as they were sent"

    def outcome(self) -> dict[str, Any]:
        """What became of the waits, and which signal each of them got; nothing of when."""
        rows = {path: (row.status, row.output_text, row.ports, row.iteration) for path, row in self.record.rows.items()}
        return {"rows": rows, "used": self.record.used, "status": self.record.fields["status"]}


def fitting(wait: SignalWait, signals: Sequence[Mail]) -> list[str]:
    """The signals that end a wait, if these are there for it; none if it goes on."""
    first: dict[str | None, Mail] = {}
    for mail in signals:
        if mail.topic in wait.names:
            first.setdefault(mail.topic, mail)
    found = [mail.id for mail in first.values()]
    if wait.mode == "any":
        return found[:1]
    return found if len(found) == len({*wait.names}) else []


@settings(max_examples=1_000, deadline=None)
@given(
    waiting_workflows(),
    st.lists(st.one_of(SIGNAL, SIGNAL, SIGNALS_AT_ONCE, OPEN, OPEN, TIME, HOLD, DEATH), min_size=3, max_size=30),
    st.sampled_from([1, 3, 500]),
)
def test_every_signal_goes_to_one_wait_in_order_and_no_wait_misses_one_that_came_in_time(
    workflow: CompiledWorkflow, actions: list[Action], merged: int
) -> None:
    run = Mailroom(workflow, merged)
    for action in actions:
        if run.ended:
            break
        run.act(action)
        run.check_rest()
    run.finish()
    run.check_end()
    assert run.snapshot.status is ExecutionStatus.COMPLETED


@settings(max_examples=300, deadline=None)
@given(
    waiting_workflows(),
    st.lists(st.tuples(st.one_of(SIGNALS_AT_ONCE, OPEN, TIME), st.sampled_from([None, None, *DEATHS])), max_size=20),
    st.sampled_from([1, 3]),
)
def test_who_gets_which_signal_does_not_depend_on_crashes_nor_on_how_much_is_written_at_once(
    workflow: CompiledWorkflow, actions: list[tuple[Action, str | None]], merged: int
) -> None:
    undisturbed, disturbed = Mailroom(workflow), Mailroom(workflow, merged)
    for action, death in actions:
        for run in (undisturbed, disturbed):
            if not run.ended:
                run.act(action)
                run.settle()
        if death is not None and disturbed.owned:
            disturbed.act((death, 0.0))
            disturbed.settle()
    for run in (undisturbed, disturbed):
        run.finish()
    assert disturbed.outcome() == undisturbed.outcome()
