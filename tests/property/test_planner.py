"""The planner under everything that can happen to a run, in any order: a model drives it as a driver does.

Each rule reports one fact, then decides until nothing is left to decide, and records. A crash forgets the snapshot and
begins again from the recorded rows alone, as another process would.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.domain.compiled import CompiledWorkflow
from app.domain.control import StopReason
from app.domain.errors import Failure
from app.domain.events import STREAM_EVENT, TERMINAL_TYPES
from app.domain.mail import Mail
from app.domain.planner import plan
from app.domain.snapshot import Aborted, Failed, Outcome, Slept
from app.domain.states import ExecutionStatus, StepStatus
from app.domain.steps import Effect
from app.engine.restore import restore
from tests.property.model import Process, facts, good, workflows

EXECUTION_FOLD = {
    "execution_queued": "PENDING",
    "execution_started": "RUNNING",
    "execution_waiting": "WAITING",
    "execution_resumed": "RUNNING",
    "execution_cancelling": "CANCELLING",
    "execution_completed": "COMPLETED",
    "execution_failed": "FAILED",
    "execution_cancelled": "CANCELLED",
}
STEP_FOLD = {
    "step_started": "RUNNING",
    "step_retrying": "WAITING",
    "step_waiting": "WAITING",
    "step_completed": "COMPLETED",
    "step_failed": "FAILED",
    "step_skipped": "SKIPPED",
    "step_cancelled": "CANCELLED",
}
UNRECORDED = Failed(Failure("broken", "unrecorded"), 0.5)
SETTLING = {"step_completed", "step_failed", "step_skipped", "step_cancelled"}


class Run(RuleBasedStateMachine):
    """One execution from its acceptance to its end."""

    process: Process

    @initialize(workflow=workflows())
    def accept(self, workflow: CompiledWorkflow) -> None:
        self.settled: dict[str, object] = {}
        self.process = Process(workflow)

    # What can happen.

    @precondition(lambda self: self.process.running)
    @rule(pick=st.integers(0, 8), kind=st.sampled_from(["good", "left", "right"]))
    def an_attempt_succeeds(self, pick: int, kind: str) -> None:
        self.process.ends(self._picked(pick), good(kind))
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
        for number, step_id in enumerate(sorted(self.process.running)):
            self.process.ends(step_id, Failed(Failure("broken", step_id, retryable=False)) if number else good("left"))
        self.process.go_on()

    @precondition(lambda self: self.process.snapshot.stop is not None and self.process.running)
    @rule(pick=st.integers(0, 8))
    def an_aborted_attempt_ends(self, pick: int) -> None:
        self.process.ends(self._picked(pick), Aborted())
        self.process.go_on()

    @rule(seconds=st.sampled_from([0.3, 2.0, 6.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.process.tick(seconds)
        if self.process.asleep and self.process.due:
            self.process.claim()
        if not self.process.ended and (not self.process.asleep or self.process.due):
            self.process.go_on()

    @precondition(lambda self: not self.process.record.mail and (self.process.running or self.process.asleep))
    @rule(heard=st.booleans())
    def somebody_cancels(self, heard: bool) -> None:
        """The mail is durable; the owner may hear of it later, and a sleeping run is claimed because of it."""
        self.process.record.mail.append(Mail("mail_1", "cancel", {"reason": "enough"}, "user_1"))
        if self.process.asleep:
            self.process.claim()
            self.process.go_on()
        elif heard:
            self.process.go_on()

    @precondition(lambda self: not self.process.ended and self.process.snapshot.next_seq > 6)
    @rule(reported=st.booleans(), pick=st.integers(0, 8), outcome=st.sampled_from([good("left"), UNRECORDED]))
    def the_worker_dies(self, reported: bool, pick: int, outcome: Outcome) -> None:
        """It may have taken in a report, decided, even run pure steps: what is not recorded is lost."""
        if reported and self.process.running:
            step_id = self._picked(pick)
            self.process.ends(step_id, outcome)
            self.process.launched[step_id][-1] = "lost"
            self.process.decide()
        self.process.claim()
        self.process.go_on()

    @precondition(lambda self: self.process.asleep)
    @rule()
    def somebody_wakes_it_too_early(self) -> None:
        before = len(self.process.record.events)
        self.process.claim()
        if not self.process.due:
            self.process.go_on()
            assert self.process.asleep
            assert len(self.process.record.events) == before

    # What must hold, always.

    @invariant()
    def planning_again_decides_nothing_new(self) -> None:
        if not self.process.asleep:
            assert plan(self.process.workflow, self.process.snapshot, self.process.now) == []

    @invariant()
    def the_record_holds_every_fact(self) -> None:
        restored = restore(self.process.workflow, self.process.record.claim(self.process.now))
        assert facts(restored) == facts(self.process.snapshot)

    @invariant()
    def events_are_numbered_without_gap_and_time_goes_on(self) -> None:
        events = self.process.record.events
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        times = [event.timestamp for event in events]
        assert times == sorted(times)

    @invariant()
    def the_end_comes_once_and_last(self) -> None:
        terminal = [event for event in self.process.record.events if event.type in TERMINAL_TYPES]
        assert terminal == (self.process.record.events[-1:] if self.process.ended else [])

    @invariant()
    def progress_is_the_formula_and_never_goes_back(self) -> None:
        progress = [event.progress for event in self.process.record.events]
        assert progress == sorted(progress)
        states = self.process.snapshot.steps.values()
        closing = {"execution_failed", "execution_cancelled", "execution_timed_out"}
        settled = [state for state in states if state.status.settled and state.status is not StepStatus.CANCELLED]
        counted = sum(state.reason not in closing for state in settled)
        completed = self.process.snapshot.status is ExecutionStatus.COMPLETED
        assert progress[-1] == (100 if completed else counted * 100 // len(states))
        for event in self.process.record.events:
            assert dict(event.data).get("progress", event.progress) == event.progress

    @invariant()
    def steps_start_once_behind_their_needs_and_never_when_skipped(self) -> None:
        began: set[str | None] = set()
        settled: set[str | None] = set()
        for event in self.process.record.events:
            if event.type == "step_started":
                assert event.step_id not in began | settled
                began.add(event.step_id)
                needs = {edge.parent for edge in self.process.workflow.by_id[str(event.step_id)].edges}
                assert needs <= settled
            if event.type in SETTLING:
                assert event.step_id not in settled
                assert event.type != "step_skipped" or event.step_id not in began
                settled.add(event.step_id)

    @invariant()
    def what_a_step_sees_of_its_ancestors_is_settled(self) -> None:
        assert {status for _, status in self.process.seen} <= {"COMPLETED", "FAILED", "SKIPPED"}

    @invariant()
    def nothing_starts_behind_the_acknowledgement_of_a_cancellation(self) -> None:
        kinds = [event.type for event in self.process.record.events]
        if "execution_cancelling" in kinds:
            assert not {"step_started", "step_retrying"} & set(kinds[kinds.index("execution_cancelling") :])
        stop = self.process.snapshot.stop
        if stop is not None and stop.reason is StopReason.CANCELLED and not self.process.ended:
            assert kinds.count("execution_cancelling") == 1

    @invariant()
    def settled_steps_never_change(self) -> None:
        for path, row in self.process.record.rows.items():
            if StepStatus(row.status).settled:
                assert self.settled.setdefault(path, row) == row

    @invariant()
    def an_effect_that_must_happen_once_is_not_repeated_unless_it_failed(self) -> None:
        for step in self.process.workflow.steps:
            if step.effect is Effect.ONCE:
                assert set(self.process.launched[step.id][:-1]) <= {"failed"}

    @invariant()
    def rows_hold_what_their_status_has(self) -> None:
        for path, row in self.process.record.rows.items():
            assert (row.wake_at is not None) == (row.status == "WAITING")
            assert (row.completed_at is not None) == StepStatus(row.status).settled
            assert (row.output_text is not None) <= (row.status in {"COMPLETED", "WAITING"})
            if row.error_code == "outcome_unknown":
                assert self.process.record.attempts[path, row.attempt] == "LOST"

    @invariant()
    def attempts_are_numbered_and_within_the_policy(self) -> None:
        for step in self.process.workflow.steps:
            recorded = {
                number: status for (path, number), status in self.process.record.attempts.items() if path == step.id
            }
            assert sorted(recorded) == list(range(1, len(recorded) + 1))
            assert sum(status == "FAILED" for status in recorded.values()) <= step.retry.max_attempts

    @invariant()
    def the_events_tell_every_status(self) -> None:
        events = self.process.record.events
        told = [EXECUTION_FOLD[event.type] for event in events if event.type in EXECUTION_FOLD][-1]
        assert told == self.process.snapshot.status
        steps = {event.step_id: STEP_FOLD[event.type] for event in events if event.type in STEP_FOLD}
        for step_id, state in self.process.snapshot.steps.items():
            again = steps.get(step_id) == "WAITING" and state.status is StepStatus.RUNNING
            assert again or steps.get(step_id, "PENDING") == state.status

    @invariant()
    def the_reported_failure_is_the_first(self) -> None:
        events = self.process.record.events
        if events[-1].type != "execution_failed":
            return
        steps = self.process.workflow.by_id
        stopping = [
            event
            for event in events
            if event.type == "step_failed" and not steps[str(event.step_id)].definition.continue_on_error
        ]
        deadline = self.process.record.fields["deadline_at"]
        if stopping and (deadline is None or stopping[0].timestamp < deadline):
            assert events[-1].step_id == stopping[0].step_id
            assert dict(events[-1].data)["error_message"] == dict(stopping[0].data)["error_message"]
        else:
            assert dict(events[-1].data)["error_code"] in {"execution_timed_out", "expression_error"}

    def teardown(self) -> None:
        """Whatever happened: a run whose attempts all end does end, and every event of it has its shape."""
        if not hasattr(self, "process"):
            return
        for _ in range(100):
            if self.process.ended:
                break
            for step_id in sorted(self.process.running):
                self.process.ends(step_id, Aborted() if self.process.snapshot.stop else good("good"))
            self.time_passes(10.0)
        assert self.process.ended, f"does not end: {self.process.snapshot}"
        self.the_end_comes_once_and_last()
        self.the_events_tell_every_status()
        for event in self.process.record.events:
            wire = {"seq": event.seq, "type": event.type, "execution_id": "exec_1", "step_id": event.step_id}
            wire |= {"timestamp": event.timestamp, "progress": event.progress, "data": event.data}
            assert STREAM_EVENT.validate_python(wire).data == event.data

    def _picked(self, pick: int) -> str:
        running = sorted(self.process.running)
        return running[pick % len(running)]


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
