"""The planner under everything that can happen to a run, in any order: a model drives it as a driver does.

Each rule reports one fact, then decides until nothing is left to decide, and records. A crash forgets the snapshot and
begins again from the recorded rows alone, as another process would.
"""

import sys
from typing import Any

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from app.domain.errors import Failure
from app.domain.events import STREAM_EVENT
from app.domain.states import ExecutionStatus
from app.domain.step_state import Aborted, Failed, Outcome, Slept
from app.domain.waits import ApprovalWait, SignalWait
from tests.property.invariants import Invariants
from tests.property.model import Process
from tests.property.reach import reached
from tests.property.workflows import SIGNALS, controls, good, waits_for, workflows

pytestmark = pytest.mark.timeout(600)  # a failing example is made smaller for minutes before it is shown

UNRECORDED = Failed(Failure("broken", "unrecorded"), 0.5)
WISHES = ["pause", "pause", "resume", "resume", "step"]


class Run(Invariants):
    """One execution from its acceptance to its end."""

    @initialize(
        data=st.data(), merged=st.sampled_from([1, 3, 500]), at_once=st.sampled_from([True, True, True, False]),
        start_in=st.sampled_from([None, None, None, 20.0]),
    )  # fmt: skip
    def accept(self, data: st.DataObject, merged: int, at_once: bool, start_in: float | None) -> None:
        self.settled = {}
        self.children: set[str] = set()
        workflow = data.draw(workflows())
        self.process = Process(workflow, data.draw(controls(workflow)), merged, start_in)
        if at_once:
            self.process.serve()

    # What its steps do.

    @precondition(lambda self: self.process.running)
    @rule(pick=st.integers(0, 8), kind=st.sampled_from(["good", "left", "right"]))
    def an_attempt_succeeds(self, pick: int, kind: str) -> None:
        path = self._picked(pick)
        self.process.ends(path, self._success(path, kind))
        self.process.go_on()

    @precondition(lambda self: self.process.running)
    @rule(pick=st.integers(0, 8))
    def an_attempt_fails_for_now(self, pick: int) -> None:
        self.process.ends(self._picked(pick), Failed(Failure("busy", f"busy at {self.process.now}"), 0.5))
        self.process.go_on()

    @precondition(lambda self: self.process.running)
    @rule(
        pick=st.integers(0, 8), retryable=st.booleans(), after=st.sampled_from([None, 20.0]), jitter=st.floats(0, 0.9)
    )
    def an_attempt_fails(self, pick: int, retryable: bool, after: float | None, jitter: float) -> None:
        failure = Failure("broken", f"failure at {self.process.now}", retryable, after)
        self.process.ends(self._picked(pick), Failed(failure, jitter))
        self.process.go_on()

    @precondition(lambda self: self.process.running)
    @rule(pick=st.integers(0, 8), seconds=st.sampled_from([0.0, 0.5, 30.0]))
    def an_attempt_goes_to_sleep(self, pick: int, seconds: float) -> None:
        self.process.ends(self._picked(pick), Slept(seconds, {"slept": True}, '{"slept":true}'))
        self.process.go_on()

    @precondition(lambda self: len(self.process.running) > 1)
    @rule()
    def all_attempts_end_at_once(self) -> None:
        for number, path in enumerate(sorted(self.process.running)):
            broken = Failed(Failure("broken", path, retryable=False))
            self.process.ends(path, broken if number else self._success(path, "left"))
        self.process.go_on()

    @precondition(lambda self: self.process.snapshot.control.stop is not None and self.process.running)
    @rule(pick=st.integers(0, 8))
    def an_aborted_attempt_ends(self, pick: int) -> None:
        self.process.ends(self._picked(pick), Aborted())
        self.process.go_on()

    # What time, the queue and death do.

    @rule(seconds=st.sampled_from([0.3, 2.0, 6.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.process.tick(seconds)
        if self.process.owned or self.process.wants_slot:
            self._serve()

    @precondition(lambda self: not self.process.owned and not self.process.ended)
    @rule()
    def the_queue_serves_it(self) -> None:
        self._serve()

    @precondition(lambda self: self.process.sleeps_freely and self.process.record.unread())
    @rule()
    def its_mail_is_read_without_a_slot(self) -> None:
        self.process.claim(may_run=False)
        self.process.go_on()
        assert not self.process.owned

    @precondition(lambda self: not self.process.owned and self.process.snapshot.status is ExecutionStatus.PENDING)
    @rule(verdict=st.sampled_from(["queue_expired", "concurrency_skipped", "concurrency_cancelled"]))
    def a_limit_ends_it(self, verdict: str) -> None:
        if self.process.record.fields["status"] == "PENDING":
            self.process.claim(may_run=False, verdict=verdict)
            self.process.go_on()
            assert self.process.ended
            assert self.process.snapshot.progress == 0

    @precondition(lambda self: self.process.owned)
    @rule(again=st.booleans())
    def the_worker_dies(self, again: bool) -> None:
        self.process.die()
        if again:
            self._serve()

    @precondition(lambda self: self.process.running)
    @rule(again=st.booleans(), pick=st.integers(0, 8), kind=st.sampled_from(["left", None]))
    def the_worker_dies_before_it_records(self, again: bool, pick: int, kind: str | None) -> None:
        """It has taken in a report, decided, even run pure steps: what is not recorded is lost."""
        path = self._picked(pick)
        self.process.ends(path, UNRECORDED if kind is None else self._success(path, kind))
        self.process.launched[path][-1] = "lost"
        self.process.hear()
        self.process.decide()
        self.the_worker_dies(again)

    @precondition(lambda self: self._asleep and not self.process.wants_slot and not self.process.record.unread())
    @rule(may_run=st.booleans())
    def somebody_wakes_it_too_early(self, may_run: bool) -> None:
        before = len(self.process.record.events)
        self.process.claim(may_run=may_run)
        self.process.go_on()
        assert self._asleep
        assert len(self.process.record.events) == before

    # What comes by mail. The owner may hear of it later.

    @precondition(lambda self: not self.process.ended)
    @rule(kind=st.sampled_from(WISHES), heard=st.booleans())
    def somebody_pauses_or_lets_it_go_on(self, kind: str, heard: bool) -> None:
        self._send(kind, {"reason": "so"}, heard)

    @precondition(lambda self: self.process.snapshot.status is ExecutionStatus.PAUSED)
    @rule(heard=st.booleans())
    def somebody_steps_through_it(self, heard: bool) -> None:
        self._send("step", {}, heard)

    @precondition(lambda self: not self.process.ended and self.process.snapshot.next_seq > 12)
    @rule(kind=st.sampled_from(["cancel", "terminate"]), heard=st.booleans())
    def somebody_stops_it(self, kind: str, heard: bool) -> None:
        self._send(kind, {"reason": "enough"}, heard)

    @precondition(lambda self: not self.process.ended)
    @rule(pick=st.integers(0, 8), whole=st.booleans(), heard=st.booleans())
    def somebody_sets_breakpoints(self, pick: int, whole: bool, heard: bool) -> None:
        self._send("breakpoints", {"steps": [self._step(pick)] if whole else []}, heard)

    @precondition(lambda self: not self.process.ended)
    @rule(pick=st.integers(0, 8), heard=st.booleans())
    def somebody_edits_an_output(self, pick: int, heard: bool) -> None:
        paused = self.process.snapshot.status is ExecutionStatus.PAUSED
        done = [name for name, state in self.process.snapshot.steps.items() if paused and state.status == "COMPLETED"]
        step_id = done[pick % len(done)] if done else self._step(pick)
        self._send("edit", {"step_id": step_id, "output": {"ok": 2, "case": "left"}}, heard)

    @precondition(lambda self: not self.process.ended)
    @rule(limit=st.sampled_from([{"max_steps": 2}, {"max_steps": 7}, {"max_cost": 1.5}, {"max_cost": 90.0}]))
    def somebody_sets_a_budget(self, limit: dict[str, Any]) -> None:
        self._send("budget", limit, heard=True)

    @precondition(lambda self: not self.process.ended)
    @rule(name=st.sampled_from(SIGNALS), payload=st.integers(0, 3), heard=st.booleans())
    def a_signal_comes(self, name: str, payload: int, heard: bool) -> None:
        self._send("signal", payload, heard, topic=name)

    @precondition(lambda self: not self.process.ended and self.process.record.approvals)
    @rule(
        pick=st.integers(0, 8), user=st.sampled_from(["ann", "bob"]), heard=st.booleans(),
        decision=st.sampled_from(["approve", "approve", "reject"]),
    )  # fmt: skip
    def somebody_decides(self, pick: int, user: str, heard: bool, decision: str) -> None:
        asked = sorted(self.process.record.approvals)
        topic = asked[pick % len(asked)]
        if not any(mail.topic == topic and mail.user_id == user for mail in self.process.record.mail):
            self._send("decision", {"decision": decision}, heard, user=user, topic=topic)

    @precondition(lambda self: not self.process.ended and self._awaited)
    @rule(pick=st.integers(0, 8), heard=st.booleans())
    def what_a_step_waits_for_comes(self, pick: int, heard: bool) -> None:
        wait = self._awaited[pick % len(self._awaited)]
        match wait:
            case SignalWait(names=names):
                for name in names:
                    self._send("signal", pick, heard, topic=name)
            case ApprovalWait(approval_id=topic):
                for user in ("ann", "bob"):
                    if not any(mail.topic == topic and mail.user_id == user for mail in self.process.record.mail):
                        self._send("decision", {"decision": "approve"}, heard, user, topic)

    @precondition(lambda self: not self.process.ended and self.children)
    @rule(pick=st.integers(0, 8), heard=st.booleans(), status=st.sampled_from(["COMPLETED", "COMPLETED", "FAILED"]))
    def a_child_ends(self, pick: int, heard: bool, status: str) -> None:
        child = sorted(self.children)[pick % len(self.children)]
        self.children.discard(child)
        told = {"status": status, "output": {"ok": 1}, "error": "no", "error_code": "x", "tokens_used": 3, "cost": 0.5}
        self._send("child", told, heard, user=None, topic=child)

    def teardown(self) -> None:
        """Whatever happened: a run that is let go on, and whose attempts all end, does end."""
        if not hasattr(self, "process") or isinstance(sys.exception(), Exception):
            return
        for _ in range(150):
            if self.process.ended:
                break
            self._help()
        assert self.process.ended, f"does not end: {self.process.snapshot}"
        for known in self.invariants:
            known.function(self)
        for told in self.process.record.events:
            wire = {"seq": told.seq, "type": told.type, "execution_id": "exec_1", "step_id": told.step_id}
            wire |= {"timestamp": told.timestamp, "progress": told.progress, "data": told.data}
            assert STREAM_EVENT.validate_python(wire).data == told.data
        for what in sorted({*reached(self.process.workflow, self.process.record), *self.process.marks}):
            event(what)

    def _help(self) -> None:
        process = self.process
        if process.snapshot.status is ExecutionStatus.PAUSED and not process.owned:
            process.send("breakpoints", {"steps": []})
            process.send("budget", {"max_steps": 9_999, "max_cost": 9_999, "max_duration": "9999s"})
            process.send("resume", {})
        for child in sorted(self.children):
            process.send("child", {"status": "COMPLETED", "output": None}, None, child)
        self.children.clear()
        for path in sorted(process.running):
            process.ends(path, Aborted() if process.snapshot.control.stop else self._success(path, "good"))
        process.tick(10.0)
        self._serve()

    def _serve(self) -> None:
        """One claim; whoever claimed a run that asked for a slot has something to do."""
        process = self.process
        asked = process.wants_slot and process.record.fields["status"] in {"PENDING", "WAITING", "PAUSED"}
        asked, before = asked and not process.record.unread(), len(process.record.events)
        process.serve()
        assert not asked or len(process.record.events) > before

    def _send(
        self, kind: str, payload: Any, heard: bool, user: str | None = "user_1", topic: str | None = None
    ) -> None:
        self.process.send(kind, payload, user, topic)
        if heard:
            self.process.serve()

    def _success(self, path: str, kind: str) -> Outcome:
        """How an attempt ends well; that of a step with a child waits for it."""
        if self.process.workflow.step(path).definition.type != "child":
            return good(kind, path)
        state = self.process.snapshot.state(path)
        child = f"exec_{path}_{state.iteration}.{state.failures}"
        if not any(mail.topic == child for mail in self.process.record.mail):
            self.children.add(child)
        return waits_for(child)

    @property
    def _asleep(self) -> bool:
        return not self.process.owned and self.process.record.fields["status"] in {"WAITING", "PAUSED"}

    @property
    def _awaited(self) -> list[SignalWait | ApprovalWait]:
        waits = [state.awaited for _, state in self.process.snapshot.unsettled()]
        return [wait for wait in waits if isinstance(wait, SignalWait | ApprovalWait)]

    def _picked(self, pick: int) -> str:
        running = sorted(self.process.running)
        return running[pick % len(running)]

    def _step(self, pick: int) -> str:
        order = self.process.workflow.order
        return order[pick % len(order)]


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
