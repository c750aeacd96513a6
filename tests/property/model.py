"""What the planner is tried on: random workflows, and a process that drives one by the rules of `app.engine.driver`.

`Process` keeps a record as the database would and forgets everything else when it dies.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from app.domain.changes import Changes, Event
from app.domain.compiled import CompiledWorkflow
from app.domain.control import Control, control_json
from app.domain.decisions import StartStep
from app.domain.definition import RetryPolicy
from app.domain.errors import Failure, Problem
from app.domain.events import ExecutionQueued
from app.domain.evolution import evolve, suspend
from app.domain.intake import take_in
from app.domain.jsontext import encode
from app.domain.mail import Mail
from app.domain.planner import next_wake, plan
from app.domain.snapshot import Aborted, Failed, Outcome, Slept, Snapshot, Succeeded
from app.domain.states import LEGAL, LEGAL_STEP, ExecutionStatus
from app.domain.steps import Effect, StepSpec, Usage
from app.domain.validation import check_definition
from app.engine.driver import HOLD_SECONDS
from app.engine.ports import Claim, StoredStep
from app.engine.restore import restore
from app.engine.transition import Fence, Release, StepRow, build_transition

START = datetime(2026, 1, 1, tzinfo=UTC)
PORTS = ("left", "right")
EFFECTS = {
    "compute": Effect.PURE,
    "switch": Effect.PURE,
    "pause": Effect.PURE,
    "refuse": Effect.PURE,
    "call": Effect.IDEMPOTENT,
    "route": Effect.IDEMPOTENT,
    "pay": Effect.ONCE,
}


class Types:
    """Pure step types whose outcome their name tells, and others whose outcome the test decides."""

    def spec(self, step_type: str) -> StepSpec | None:
        return StepSpec(
            type=step_type, title=step_type, description=step_type, category="test", icon="flask",
            effect=EFFECTS[step_type], config_schema={"type": "object"}, output_schema={}, timeout=60,
            retry=RetryPolicy(max_attempts=2), ports_from="cases" if step_type in {"switch", "route"} else None,
        )  # fmt: skip

    def check(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        return []

    def missing_setup(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        return []


@st.composite
def workflows(draw: st.DrawFn) -> CompiledWorkflow:
    """A valid workflow of one to nine steps; each step's `with` looks at the statuses of all its ancestors."""
    steps: list[dict[str, Any]] = []
    upstream: dict[str, list[str]] = {}
    for number in range(draw(st.sampled_from([1, 2, 3, 5, 6, 7, 8, 9]))):
        count = min(len(steps), draw(st.sampled_from([0, 0, 1, 1, 2])))
        parents = draw(st.permutations(steps))[:count]
        ancestors = sorted({name for parent in parents for name in [parent["id"], *upstream[parent["id"]]]})
        step = _step(draw, f"s{number}", parents, ancestors)
        upstream[step["id"]] = ancestors
        steps.append(step)
    document: dict[str, Any] = {"name": "Model", "steps": draw(st.permutations(steps))}
    if timeout := draw(st.sampled_from([None, None, None, "20s", "60s"])):
        document["timeout"] = timeout
    if _seldom(draw):
        document["output"] = "${{ input.nothing }}"
    checked = check_definition(document, Types())
    assert checked.workflow is not None, checked.problems
    return checked.workflow


def _seldom(draw: st.DrawFn) -> bool:
    return draw(st.sampled_from(range(20))) == 13


def _step(draw: st.DrawFn, name: str, parents: list[dict[str, Any]], ancestors: list[str]) -> dict[str, Any]:
    kind = draw(st.sampled_from(["compute", "switch", "pause", "refuse", *["call"] * 6, *["route"] * 2, *["pay"] * 3]))
    config: dict[str, Any] = {"seen": {other: f"${{{{ steps.{other}.status }}}}" for other in ancestors}}
    if kind in {"switch", "route"}:
        config |= {"cases": dict.fromkeys(PORTS, True), "take": draw(st.sampled_from([*PORTS, None]))}
    if kind == "pause":
        config["seconds"] = draw(st.sampled_from([0, 0.5, 30]))
    if _seldom(draw):
        config["broken"] = "${{ input.nothing }}"
    step: dict[str, Any] = {
        "id": name,
        "type": kind,
        "needs": [_need(draw, parent) for parent in parents],
        "continue_on_error": draw(st.sampled_from([True, True, False])),
        "with": config,
        "retry": {
            "max_attempts": draw(st.integers(1, 3)),
            "initial_interval": draw(st.sampled_from(["500ms", "5s"])),
            "jitter": draw(st.sampled_from(["none", "full"])),
        },
    }
    if parents:
        step["run_if"] = draw(
            st.sampled_from(["default", "default", "all_succeeded", "any_failed", "any_failed", "all_done"])
        )
    if _seldom(draw) or _seldom(draw):
        looking = [f"steps.{other}.status == '{status}'" for other in ancestors for status in ("COMPLETED", "FAILED")]
        step["if"] = draw(st.sampled_from([False, "${{ input }}", "${{ input.nothing }}", *looking]))
    return step


def _need(draw: st.DrawFn, parent: dict[str, Any]) -> str:
    ported = parent["type"] in {"switch", "route"} and draw(st.booleans())
    return f"{parent['id']}.{draw(st.sampled_from(PORTS))}" if ported else str(parent["id"])


def _pure_outcome(kind: str, config: Mapping[str, Any]) -> Outcome:
    match kind:
        case "pause":
            return Slept(config["seconds"], {"slept": True}, '{"slept":true}')
        case "refuse":
            return Failed(Failure("refused", "not today"), jitter=0.5)
        case _:
            return Succeeded({"ok": 1}, '{"ok":1}', frozenset({config.get("take")} - {None}))


@dataclass
class Record:
    """What is durable: the rows that transitions leave, and the mail."""

    events: list[Event] = field(default_factory=list)
    rows: dict[str, StepRow] = field(default_factory=dict)
    attempts: dict[tuple[str, int], str] = field(default_factory=dict)
    mail: list[Mail] = field(default_factory=list)
    fields: dict[str, Any] = field(
        default_factory=lambda: {
            "status": "PENDING", "progress": 0, "next_seq": 2, "write_no": 0, "agent_results_text": "{}",
            "started_at": None, "deadline_at": None, "last_recorded_at": None,
            "control_text": "{}",
        }
    )  # fmt: skip

    def claim(self, at: datetime) -> Claim:
        return Claim(
            id="exec_1", org_id="org_1", workflow_id="wf_1", workflow_version=1, user_id="user_1", root_id="exec_1",
            input_text=encode(True), created_at=START, owner="worker_1", epoch=1, recoveries=0, claimed_at=at,
            steps=[_stored(row) for row in self.rows.values()], mail=tuple(self.mail), **self.fields,
        )  # fmt: skip


def _stored(row: StepRow) -> StoredStep:
    fields = asdict(row)
    for unstored in ("number", "name", "type"):
        del fields[unstored]
    return StoredStep(**fields | {"ports": frozenset(filter(None, row.ports.split(",")))})


class Process:
    """One execution and whoever owns it; `launched` are the attempts that really began, by step."""

    def __init__(self, workflow: CompiledWorkflow) -> None:
        self.workflow = workflow
        self.now = START
        queued = ExecutionQueued(workflow_id="wf_1", workflow_version=1)
        self.record = Record([Event(1, "execution_queued", None, START, 0, queued)])
        self.running: set[str] = set()
        self.launched: dict[str, list[str]] = {step.id: [] for step in workflow.steps}
        self.seen: list[tuple[str, str]] = []
        self.claim()
        self.go_on()

    def tick(self, seconds: float = 0.0) -> datetime:
        """Recorded time: it never stands still for long."""
        self.now += timedelta(seconds=seconds, microseconds=1)
        return self.now

    def claim(self) -> None:
        """A new owner, who knows the record only."""
        for step_id in self.running:
            self.launched[step_id][-1] = "lost"
        self.running.clear()
        self.snapshot: Snapshot = restore(self.workflow, self.record.claim(self.tick()))

    def ends(self, step_id: str, outcome: Outcome) -> None:
        """An attempt that is under way reports."""
        self.running.discard(step_id)
        self.launched[step_id][-1] = "failed" if isinstance(outcome, Failed) else "done"
        self.snapshot.report(step_id, outcome, self.tick())

    def go_on(self) -> None:
        """One round of the driver: decide, record, launch, abort."""
        changes = self.decide()
        self.write(changes)
        if self.ended or self.asleep:
            assert not self.running
            return
        self._launch(changes.starts)
        if self.snapshot.stop is not None:
            self._abort()

    def decide(self) -> Changes:
        """Take in the mail and decide until nothing is left to decide."""
        changes = Changes()
        take_in(self.workflow, self.snapshot, self.record.mail, self.tick(), changes)
        ran = 0
        while decisions := plan(self.workflow, self.snapshot, now := self.tick()):
            assert decisions == plan(self.workflow, self.snapshot, now), "the same facts, the same decisions"
            for decision in decisions:
                before = self._statuses()
                if isinstance(decision, StartStep):
                    self._check_start(decision.path)
                evolve(self.workflow, self.snapshot, decision, self.tick(), changes)
                self._check_moves(before)
            for start in changes.starts[ran:]:
                self._look(start)
            ran = len(changes.starts)
        snapshot = self.snapshot
        if not (self.ended or snapshot.running or snapshot.stop):
            wake_at = next_wake(snapshot)
            assert wake_at is not None, f"nothing would ever move this run: {snapshot}"
            if wake_at - self.tick() > timedelta(seconds=HOLD_SECONDS):
                suspend(snapshot, self.tick(), changes)
        return changes

    def write(self, changes: Changes) -> None:
        record, release = self.record, Release(next_wake(self.snapshot)) if self.asleep else None
        control_text = encode(control_json(self.snapshot.control))
        row = build_transition(
            Fence("exec_1", "org_1", "worker_1", 1), record.fields["write_no"] + 1, self.workflow, self.snapshot,
            changes, now=self.tick(), release=release, read_mail=(), control_text=control_text,
            new_id=lambda kind: kind,
        )  # fmt: skip
        assert row.releases == (self.ended or self.asleep)
        record.events += row.events
        record.rows |= {step.path: step for step in row.steps}
        for attempt in row.attempts:
            assert (attempt.path, attempt.attempt) not in record.attempts, "one row for each attempt"
            assert attempt.started_at is not None
            assert attempt.started_at <= attempt.completed_at
            record.attempts[attempt.path, attempt.attempt] = attempt.status
        record.fields["status"] = row.status.value
        record.fields["last_recorded_at"] = row.recorded_at
        kept = "progress", "next_seq", "write_no", "agent_results_text", "started_at", "deadline_at", "control_text"
        for name in kept:
            if (value := getattr(row, name)) is not None:
                record.fields[name] = value

    def _look(self, start: StartStep) -> None:
        """A pure step runs at once; what each step saw of its ancestors is kept."""
        step = self.workflow.by_id[start.path]
        self.seen += start.config["seen"].items()
        if step.effect is Effect.PURE:
            outcome = _pure_outcome(step.definition.type, start.config)
            self.snapshot.report(step.id, outcome, self.tick())

    def _launch(self, starts: list[StartStep]) -> None:
        for start in starts:
            if self.workflow.by_id[start.path].effect is not Effect.PURE:
                self.launched[start.path].append("under way")
                self.running.add(start.path)

    def _abort(self) -> None:
        """What the driver never launched, or no longer has, is given up at once; the rest is asked to end."""
        given_up = [step_id for step_id in self.snapshot.running if step_id not in self.running]
        for step_id in given_up:
            self.snapshot.report(step_id, Aborted(), self.tick())
        if given_up:
            self.go_on()

    def _statuses(self) -> tuple[Any, dict[str, Any]]:
        return self.snapshot.status, {name: state.status for name, state in self.snapshot.steps.items()}

    def _check_start(self, step_id: str) -> None:
        snapshot, step = self.snapshot, self.workflow.by_id[step_id]
        assert snapshot.stop is None, "nothing starts in a run that is being stopped"
        handles_failure = step.run_if in {"any_failed", "all_done"}
        assert snapshot.first_failure is None or handles_failure or snapshot.steps[step_id].attempt

    def _check_moves(self, before: tuple[Any, dict[str, Any]]) -> None:
        status, steps = self._statuses()
        assert status is before[0] or status in LEGAL[before[0]], (before[0], status)
        for name, new in steps.items():
            old = before[1][name]
            assert new is old or new in LEGAL_STEP[old], (name, old, new)

    @property
    def ended(self) -> bool:
        return self.snapshot.status.terminal

    @property
    def asleep(self) -> bool:
        return self.snapshot.status is ExecutionStatus.WAITING

    @property
    def due(self) -> bool:
        wake_at = next_wake(self.snapshot)
        return wake_at is not None and wake_at <= self.now


def facts(snapshot: Snapshot) -> Snapshot:
    """A snapshot without what is not recorded: outcomes still to be decided on, how failures may be retried, a stop."""
    steps = {
        name: replace(state, outcome=None, outcome_at=None, failure=_plain(state.failure))
        for name, state in snapshot.steps.items()
    }
    first = snapshot.first_failure
    if first is not None:
        first = replace(first, failure=_plain(first.failure) or first.failure)
    return replace(snapshot, steps=steps, first_failure=first, control=Control(), reported=[])


def _plain(failure: Failure | None) -> Failure | None:
    return None if failure is None else Failure(failure.code, failure.message)


def good(kind: str) -> Outcome:
    """A success with everything that a record keeps of one."""
    ports = frozenset({kind} & set(PORTS))
    return Succeeded({"ok": 1}, '{"ok":1}', ports, Usage(tokens=7, cost=0.5), {"said": kind})
