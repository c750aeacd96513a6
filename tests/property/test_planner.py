"""The planner under everything that can happen to a run, in any order: a model drives it as a driver does.

Each rule reports one fact, then decides until nothing is left to decide, and records. A crash forgets the snapshot and
begins again from the recorded rows alone, as another process would.
"""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.domain.compiled import CompiledWorkflow
from app.domain.definition import RetryPolicy
from app.domain.errors import Failure, Problem
from app.domain.events import TERMINAL_TYPES
from app.domain.evolution import Changes, Event, evolve, suspend
from app.domain.jsontext import encode
from app.domain.planner import next_wake, plan
from app.domain.snapshot import Aborted, Failed, Outcome, Slept, Snapshot, Stop, StopReason, Succeeded
from app.domain.states import ExecutionStatus, StepStatus
from app.domain.steps import Effect, StepSpec
from app.domain.validation import check_definition
from app.engine.ports import Claim, Mail, StoredStep
from app.engine.restore import restore
from app.engine.transition import Fence, StepRow, build_transition

START = datetime(2026, 1, 1, tzinfo=UTC)
PORTS = ("left", "right")


class Types:
    """Step types of three effects, and one with ports."""

    def __init__(self) -> None:
        effects = {"twice": Effect.IDEMPOTENT, "once": Effect.ONCE, "route": Effect.IDEMPOTENT}
        self._specs = {name: self._spec(name, effect) for name, effect in effects.items()}

    @staticmethod
    def _spec(name: str, effect: Effect) -> StepSpec:
        return StepSpec(
            type=name, title=name, description=name, category="test", icon="flask", effect=effect,
            config_schema={"type": "object"}, output_schema={}, retry=RetryPolicy(max_attempts=2), timeout=60,
            ports_from="cases" if name == "route" else None,
        )  # fmt: skip

    def spec(self, step_type: str) -> StepSpec | None:
        return self._specs.get(step_type)

    def check(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        return []

    def missing_setup(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        return []


@st.composite
def workflows(draw: st.DrawFn) -> CompiledWorkflow:
    """A valid workflow of one to six steps."""
    steps: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 6))):
        needs = draw(st.lists(st.sampled_from(steps), unique_by=lambda step: step["id"], max_size=3)) if steps else []
        kind = draw(st.sampled_from(["twice", "once", "route"]))
        step: dict[str, Any] = {
            "id": f"s{number}",
            "type": kind,
            "needs": [_need(draw, parent) for parent in needs],
            "continue_on_error": draw(st.booleans()),
            "run_if": draw(st.sampled_from(["default", "all_succeeded", "any_failed", "all_done"]))
            if needs
            else "default",
            "retry": {"max_attempts": draw(st.integers(1, 3)), "initial_interval": "5s", "jitter": "none"},
        }
        if kind == "route":
            step["with"] = {"cases": dict.fromkeys(PORTS, True)}
        if draw(st.integers(0, 4)) == 0:
            step["if"] = draw(st.sampled_from([False, "${{ input }}", "${{ input.nothing }}"]))
        steps.append(step)
    document: dict[str, Any] = {"name": "Model", "steps": steps}
    if draw(st.booleans()):
        document["timeout"] = "60s"
    checked = check_definition(document, Types())
    assert checked.workflow is not None, checked.problems
    return checked.workflow


def _need(draw: st.DrawFn, parent: dict[str, Any]) -> str:
    if parent["type"] == "route" and draw(st.booleans()):
        return f"{parent['id']}.{draw(st.sampled_from(PORTS))}"
    return str(parent["id"])


class Run(RuleBasedStateMachine):
    """One execution, its record, and the attempts that a driver would have under way."""

    started = Bundle("started")

    @initialize(workflow=workflows())
    def accept(self, workflow: CompiledWorkflow) -> None:
        self.workflow = workflow
        self.now = START
        self.events: list[tuple[int, str, str | None, int, dict[str, Any]]] = [(1, "execution_queued", None, 0, {})]
        self.rows: dict[str, StepRow] = {}
        self.attempts: dict[tuple[str, int], str] = {}
        self.row: dict[str, Any] = {"status": "PENDING", "progress": 0, "next_seq": 2, "write_no": 0}
        self.cancelled: Mail | None = None
        self.under_way: set[str] = set()
        self.settled_once: dict[str, StepRow] = {}
        self._claim()
        self._go_on()

    @precondition(lambda self: self._running())
    @rule(pick=st.integers(0, 5), kind=st.sampled_from(["good", "good", "left", "right", "retry", "final", "sleep"]))
    def attempt_ends(self, pick: int, kind: str) -> None:
        running = self._running()
        step_id = running[pick % len(running)]
        self._report(step_id, self._outcome(kind))
        self._go_on()

    @rule(seconds=st.sampled_from([0.5, 4.0, 6.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        if self._asleep() and not self._due():
            return
        self._go_on()

    @precondition(lambda self: not self._ended())
    @rule()
    def somebody_cancels(self) -> None:
        self.cancelled = self.cancelled or Mail("mail_1", "cancel", {"reason": "enough"}, "user_1")
        if self.snapshot.stop is None:
            self.snapshot.stop = Stop(StopReason.CANCELLED, "enough", "user_1")
        self._go_on()

    @precondition(lambda self: not self._ended() and self.snapshot.stop is not None and self._running())
    @rule()
    def aborted_attempts_end(self) -> None:
        for step_id in self._running():
            self._report(step_id, Aborted())
        self._go_on()

    @precondition(lambda self: not self._ended() and not self._asleep())
    @rule()
    def the_worker_dies(self) -> None:
        """What is not recorded is forgotten; the next owner starts from the rows."""
        self._claim()
        self._go_on()

    @rule()
    def planning_again_decides_nothing_new(self) -> None:
        if not self._asleep():
            assert plan(self.workflow, self.snapshot, self.now) == []

    @invariant()
    def events_are_numbered_without_gap_and_end_once(self) -> None:
        assert [event[0] for event in self.events] == list(range(1, len(self.events) + 1))
        terminal = [event for event in self.events if event[1] in TERMINAL_TYPES]
        assert len(terminal) == (1 if self._ended() else 0)
        if terminal:
            assert self.events[-1] is terminal[0]

    @invariant()
    def progress_never_goes_back_and_is_full_only_when_all_is_settled(self) -> None:
        progress = [event[3] for event in self.events]
        assert progress == sorted(progress)
        counted = sum(1 for state in self.snapshot.steps.values() if state.status.settled and not state.cut_off)
        if self.snapshot.status is not ExecutionStatus.COMPLETED:
            assert self.snapshot.progress == counted * 100 // len(self.workflow.steps)

    @invariant()
    def steps_start_once_after_their_needs_and_never_when_skipped(self) -> None:
        settled_at: dict[str, int] = {}
        began: dict[str, int] = {}
        for seq, kind, step_id, _, _ in self.events:
            if kind == "step_started":
                assert step_id is not None
                assert step_id not in began
                began[step_id] = seq
                for edge in self.workflow.by_id[step_id].edges:
                    assert settled_at[edge.parent] < seq
            if kind in {"step_completed", "step_failed", "step_skipped", "step_cancelled"}:
                assert step_id is not None
                assert step_id not in settled_at, "settled once"
                assert kind != "step_skipped" or step_id not in began
                settled_at[step_id] = seq

    @invariant()
    def nothing_starts_behind_the_acknowledgement_of_a_cancellation(self) -> None:
        kinds = [event[1] for event in self.events]
        if "execution_cancelling" in kinds:
            assert "step_started" not in kinds[kinds.index("execution_cancelling") :]

    @invariant()
    def what_runs_has_an_attempt_and_what_has_ended_is_settled(self) -> None:
        if self._ended():
            assert all(state.status.settled for state in self.snapshot.steps.values())
        else:
            assert set(self.snapshot.running) == self.under_way

    @invariant()
    def no_step_fails_more_often_than_its_policy_allows(self) -> None:
        for step in self.workflow.steps:
            failed = [status for (path, _), status in self.attempts.items() if (path, status) == (step.id, "FAILED")]
            assert len(failed) <= step.retry.max_attempts

    @invariant()
    def settled_rows_never_change(self) -> None:
        for path, row in self.settled_once.items():
            assert self.rows[path] == row

    @invariant()
    def the_events_tell_the_status_of_every_step(self) -> None:
        told = {step.id: "PENDING" for step in self.workflow.steps}
        words = {"step_started": "RUNNING", "step_retrying": "WAITING", "step_waiting": "WAITING"}
        for _, kind, step_id, _, _ in self.events:
            if step_id in told and kind.startswith("step_"):
                told[step_id] = words.get(kind, kind.removeprefix("step_").upper())
        for step_id, state in self.snapshot.steps.items():
            restarted = told[step_id] == "WAITING" and state.status is StepStatus.RUNNING
            assert told[step_id] == state.status or restarted

    @invariant()
    def the_reported_failure_is_the_first(self) -> None:
        if self._ended() and self.events[-1][1] == "execution_failed" and self.events[-1][2] is not None:
            stopping = [
                event
                for event in self.events
                if event[1] == "step_failed" and not self.workflow.by_id[str(event[2])].definition.continue_on_error
            ]
            assert self.events[-1][2] == stopping[0][2]
            assert self.events[-1][4]["error_message"] == stopping[0][4]["error_message"]

    def teardown(self) -> None:
        """A run whose facts stop coming in any new kind ends in finitely many of them."""
        if not hasattr(self, "workflow"):
            return
        for _ in range(200):
            if self._ended():
                return
            for step_id in self._running():
                stopping = self.snapshot.stop is not None
                self._report(step_id, Aborted() if stopping else self._outcome("good"))
            self.now += timedelta(seconds=10)
            if not self._asleep() or self._due():
                self._go_on()
        raise AssertionError(f"does not end: {self.snapshot}")

    def _report(self, step_id: str, outcome: Outcome) -> None:
        self.under_way.remove(step_id)
        self.snapshot.steps[step_id].report(outcome, self.now)

    def _outcome(self, kind: str) -> Outcome:
        match kind:
            case "sleep":
                return Slept(10.0, {"slept": True}, '{"slept":true}')
            case "retry":
                return Failed(Failure("flaky", "try again"), jitter=0.5)
            case "final":
                return Failed(Failure("broken", "for good", retryable=False))
            case _:
                return Succeeded({"ok": True}, '{"ok":true}', frozenset({kind} & set(PORTS)))

    def _running(self) -> list[str]:
        return sorted(self.under_way)

    def _ended(self) -> bool:
        return self.snapshot.status.terminal

    def _asleep(self) -> bool:
        return self.snapshot.status is ExecutionStatus.WAITING

    def _due(self) -> bool:
        wake_at = next_wake(self.snapshot)
        return wake_at is not None and wake_at <= self.now

    def _go_on(self) -> None:
        """Decide until nothing is left, then record, as `Driver` does."""
        changes = Changes()
        while decisions := plan(self.workflow, self.snapshot, self.now):
            for decision in decisions:
                evolve(self.workflow, self.snapshot, decision, self.now, changes)
        snapshot = self.snapshot
        idle = not (snapshot.status.terminal or snapshot.running or snapshot.stop)
        if idle and snapshot.status is ExecutionStatus.RUNNING and next_wake(snapshot) is not None:
            suspend(snapshot, self.now, changes)
        self._record(changes)
        self.under_way |= {start.step_id for start in changes.starts}
        if self._asleep() and self.cancelled is not None:
            self._claim()
            self._go_on()

    def _record(self, changes: Changes) -> None:
        transition = build_transition(
            Fence("exec_1", "org_1", "worker_1", 1), self.row["write_no"] + 1, self.workflow, self.snapshot, changes,
            now=self.now, wake_at=next_wake(self.snapshot) if self._asleep() else None, read_mail=(),
            audit_id="audit_1" if changes.ending else None,
        )  # fmt: skip
        for row in transition.steps:
            self.rows[row.path] = row
            if StepStatus(row.status).settled:
                self.settled_once.setdefault(row.path, row)
        for attempt in transition.attempts:
            assert (attempt.path, attempt.attempt) not in self.attempts, "one row for each attempt"
            self.attempts[attempt.path, attempt.attempt] = attempt.status
        self.events += [_told(event) for event in transition.events]
        began = {"started_at": transition.started_at, "deadline_at": transition.deadline_at}
        self.row |= {key: value for key, value in began.items() if value is not None}
        self.row |= {
            "status": transition.status.value,
            "progress": transition.progress,
            "next_seq": transition.next_seq,
            "write_no": transition.write_no,
            "last_recorded_at": transition.recorded_at,
        }

    def _claim(self) -> None:
        self.under_way.clear()
        self.snapshot: Snapshot = restore(
            self.workflow,
            Claim(
                id="exec_1", org_id="org_1", workflow_id="wf_1", workflow_version=1, user_id="user_1",
                root_id="exec_1", input_text=encode(True), agent_results_text="{}", created_at=START,
                owner="worker_1", epoch=1, recoveries=0, claimed_at=self.now,
                started_at=self.row.get("started_at"), deadline_at=self.row.get("deadline_at"),
                last_recorded_at=self.row.get("last_recorded_at"), status=self.row["status"],
                progress=self.row["progress"], next_seq=self.row["next_seq"], write_no=self.row["write_no"],
                steps=[_stored(row) for row in self.rows.values()],
                mail=[self.cancelled] if self.cancelled else [],
            ),
        )  # fmt: skip
        if self.cancelled is not None and self.snapshot.stop is None:
            self.snapshot.stop = Stop(StopReason.CANCELLED, "enough", "user_1")


def _told(event: Event) -> tuple[int, str, str | None, int, dict[str, Any]]:
    return event.seq, event.type, event.step_id, event.progress, dict(event.data)


def _stored(row: StepRow) -> StoredStep:
    fields = asdict(row)
    for unstored in ("number", "name", "type"):
        del fields[unstored]
    return StoredStep(**fields | {"ports": frozenset(filter(None, row.ports.split(",")))})


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
