"""A run in the hand of a test: the planner, the evolution, the intake, and the outcomes and mail the test reports."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from app.domain.changes import Changes, Event
from app.domain.compiled import CompiledWorkflow
from app.domain.control import Stop, control_from
from app.domain.definition import RetryPolicy
from app.domain.errors import Failure, Problem
from app.domain.evolution import evolve, suspend
from app.domain.frontier import Frontier
from app.domain.intake import take_in
from app.domain.jsontext import encode
from app.domain.mail import LETTERS, Mail
from app.domain.planner import next_wake, plan
from app.domain.snapshot import Snapshot
from app.domain.states import ExecutionStatus
from app.domain.step_state import Aborted, Failed, Lost, Outcome, Parked, Slept, StepState, Succeeded
from app.domain.steps import Effect, StepSpec, Usage
from app.domain.validation import check_definition
from app.domain.waits import ApprovalWait, Awaited, SignalWait

START = datetime(2026, 1, 1, tzinfo=UTC)
EFFECTS = {"work": Effect.IDEMPOTENT, "switch": Effect.IDEMPOTENT, "pay": Effect.ONCE, "approval": Effect.PURE}
ANY_CONFIG = {"type": "object"}


def spec(step_type: str, config_schema: Mapping[str, Any] = ANY_CONFIG) -> StepSpec:
    return StepSpec(
        type=step_type, title=step_type, description=step_type, category="test", icon="flask",
        effect=EFFECTS.get(step_type, Effect.IDEMPOTENT), config_schema=config_schema, output_schema={},
        retry=RetryPolicy(), timeout=60, ports_from="cases" if step_type == "switch" else None,
        default_port_from="default" if step_type == "switch" else None, function_from="function",
        port_of=lambda output: output.get("case"),
    )  # fmt: skip


class Types:
    """The step types `work`, `switch`, `pay` (once) and `approval`, and those that a test adds."""

    def __init__(self, *more: StepSpec) -> None:
        self._specs = {known.type: known for known in (*map(spec, EFFECTS), *more)}

    def spec(self, step_type: str) -> StepSpec | None:
        return self._specs.get(step_type)

    def check(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        return [Problem("invalid_config", "wrong", "/wrong")] if config.get("wrong") is True else []

    def missing_setup(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        return []


def compiled(*steps: Mapping[str, Any], **document: Any) -> CompiledWorkflow:
    """A workflow of these steps, of the type `work` unless they say otherwise."""
    listed = [{"type": "work", **step} for step in steps]
    checked = check_definition({"name": "Test", **document, "steps": listed}, Types())
    assert checked.workflow is not None, checked.problems
    return checked.workflow


class Run:
    """One execution. Whatever is reported or sent is followed by all that it lets the planner decide.

    A run with nothing under way falls asleep as it does in a driver, however short its wait is.
    """

    def __init__(
        self,
        *steps: Mapping[str, Any],
        input: Any = None,  # noqa: A002
        control: Any = None,
        begin: bool = True,
        **document: Any,
    ) -> None:
        self.workflow = compiled(*steps, **document)
        steps = {step.id: StepState() for step in self.workflow.steps}
        self.snapshot = Snapshot(
            execution_id="exec_1",
            status=ExecutionStatus.PENDING,
            input=input,
            context={"id": "exec_1", "user_id": "user_1", "workflow_id": "wf_1"},
            steps=steps,
            frontier=Frontier.of(self.workflow, steps),
            control=control_from(control),
        )
        self.now = START
        self.changes = Changes()
        self._letters = 0
        if begin:
            self.go_on()

    def go_on(self, seconds: float = 0.0) -> "Run":
        """Let time pass and decide."""
        self.now += timedelta(seconds=seconds)
        while decisions := plan(self.workflow, self.snapshot, self.now):
            for decision in decisions:
                evolve(self.workflow, self.snapshot, decision, self.now, self.changes)
        snapshot = self.snapshot
        if not (snapshot.status.terminal or snapshot.running or snapshot.control.stop):
            suspend(snapshot, self.now, self.changes)
        return self

    def report(self, path: str, outcome: Outcome, *, took: float = 0.0) -> "Run":
        self.now += timedelta(seconds=took)
        self.snapshot.report(path, outcome, self.now)
        return self.go_on()

    def succeed(
        self, path: str, output: Any = None, *, port: str | None = None, took: float = 0.0, usage: Usage | None = None
    ) -> "Run":
        ports = frozenset() if port is None else frozenset({port})
        return self.report(path, Succeeded(output, encode(output), ports, usage or Usage()), took=took)

    def fail(self, path: str, message: str = "broken", *, retryable: bool = False, jitter: float = 0.5) -> "Run":
        return self.report(path, Failed(Failure("broken", message, retryable), jitter))

    def sleep(self, path: str, seconds: float) -> "Run":
        return self.report(path, Slept(seconds, {"slept": seconds}, encode({"slept": seconds})))

    def park(self, path: str, awaited: Awaited, seconds: float | None = None) -> "Run":
        return self.report(path, Parked(awaited, seconds))

    def listen(self, path: str, *names: str, seconds: float | None = None, **more: Any) -> "Run":
        return self.park(path, SignalWait(names or ("go",), **more), seconds)

    def ask(self, path: str, approval_id: str = "appr_1", seconds: float | None = None, **more: Any) -> "Run":
        return self.park(path, ApprovalWait(approval_id, "May it?", **more), seconds)

    def lose(self, path: str) -> "Run":
        return self.report(path, Lost())

    def abort(self, path: str) -> "Run":
        return self.report(path, Aborted())

    def mail(self, kind: str, payload: Any = None, *, user: str | None = "user_1", topic: str | None = None) -> "Run":
        """Mail that was sent and is taken in at once."""
        return self.take(self.letter(kind, payload, user=user, topic=topic))

    def letter(self, kind: str, payload: Any = None, *, user: str | None = "user_1", topic: str | None = None) -> Mail:
        self._letters += 1
        assert (topic is not None) == (kind in LETTERS)
        return Mail(f"mail_{self._letters}", kind, payload, user, topic, self.now)

    def take(self, *mail: Mail) -> "Run":
        """Mail that is taken in together."""
        take_in(self.workflow, self.snapshot, mail, self.now, self.changes)
        return self.go_on()

    def signal(self, name: str = "go", payload: Any = None) -> "Run":
        return self.mail("signal", payload, topic=name)

    def decide(self, decision: str, user: str = "boss", approval_id: str = "appr_1", **more: Any) -> "Run":
        return self.mail("decision", {"decision": decision, **more}, user=user, topic=approval_id)

    def cancel(self, reason: str | None = "enough") -> "Run":
        return self.mail("cancel", {"reason": reason})

    def terminate(self, reason: str | None = "enough") -> "Run":
        return self.mail("terminate", {"reason": reason})

    def pause(self, reason: str | None = None) -> "Run":
        return self.mail("pause", {"reason": reason})

    def resume(self) -> "Run":
        return self.mail("resume", {"reason": None})

    def step(self) -> "Run":
        return self.mail("step", {})

    @property
    def status(self) -> str:
        return self.snapshot.status.value

    @property
    def statuses(self) -> dict[str, str]:
        return {name: state.status.value for name, state in self.snapshot.steps.items()}

    @property
    def stop(self) -> Stop | None:
        return self.snapshot.control.stop

    @property
    def events(self) -> list[Event]:
        return self.changes.events

    @property
    def told(self) -> list[str]:
        """Events as `type step`."""
        return [event.type if event.step_id is None else f"{event.type} {event.step_id}" for event in self.events]

    @property
    def started(self) -> list[str]:
        return [start.path for start in self.changes.starts]

    @property
    def running(self) -> list[str]:
        return self.snapshot.running

    @property
    def wakes_in(self) -> float | None:
        """Seconds until the next time that may change something."""
        wake_at = next_wake(self.snapshot)
        return None if wake_at is None else (wake_at - self.now).total_seconds()

    @property
    def ended_as(self) -> str | None:
        """The code of the failure that the run ended with."""
        ending = self.changes.ending
        return None if ending is None or ending.failure is None else ending.failure.code

    @property
    def output(self) -> str | None:
        ending = self.changes.ending
        assert ending is not None
        return ending.output_text

    @property
    def approvals(self) -> list[tuple[str, str]]:
        """The statuses of approvals as they changed."""
        return [(change.approval.approval_id, change.status) for change in self.changes.approvals]

    def data(self, kind: str, step_id: str | None = None) -> dict[str, Any]:
        """The data of the only event of a type (and step)."""
        (found,) = [e for e in self.events if e.type == kind and step_id in {None, e.step_id}]
        return dict(found.data)
