"""A run in the hand of a test: the planner and the evolution, and the outcomes the test reports."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from app.domain.compiled import CompiledWorkflow
from app.domain.definition import RetryPolicy
from app.domain.errors import Failure, Problem
from app.domain.evolution import Changes, Event, evolve
from app.domain.jsontext import encode
from app.domain.planner import plan
from app.domain.snapshot import Aborted, Failed, Lost, Outcome, Slept, Snapshot, StepState, Stop, StopReason, Succeeded
from app.domain.states import ExecutionStatus
from app.domain.steps import Effect, StepSpec
from app.domain.validation import check_definition

START = datetime(2026, 1, 1, tzinfo=UTC)
EFFECTS = {"work": Effect.IDEMPOTENT, "switch": Effect.IDEMPOTENT, "pay": Effect.ONCE}
ANY_CONFIG = {"type": "object"}


def spec(step_type: str, config_schema: Mapping[str, Any] = ANY_CONFIG) -> StepSpec:
    return StepSpec(
        type=step_type, title=step_type, description=step_type, category="test", icon="flask",
        effect=EFFECTS.get(step_type, Effect.IDEMPOTENT), config_schema=config_schema, output_schema={},
        retry=RetryPolicy(), timeout=60, ports_from="cases" if step_type == "switch" else None,
        default_port_from="default" if step_type == "switch" else None, function_from="function",
    )  # fmt: skip


class Types:
    """The step types `work`, `switch` and `pay` (once), and those that a test adds."""

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
    """One execution. Every report is followed by all that it lets the planner decide."""

    def __init__(self, *steps: Mapping[str, Any], input: Any = None, **document: Any) -> None:  # noqa: A002
        self.workflow = compiled(*steps, **document)
        self.snapshot = Snapshot(
            execution_id="exec_1",
            status=ExecutionStatus.PENDING,
            input=input,
            context={"id": "exec_1", "user_id": "user_1"},
            steps={step.id: StepState() for step in self.workflow.steps},
        )
        self.now = START
        self.changes = Changes()
        self.go_on()

    def go_on(self, seconds: float = 0.0) -> "Run":
        """Let time pass and decide."""
        self.now += timedelta(seconds=seconds)
        while decisions := plan(self.workflow, self.snapshot, self.now):
            for decision in decisions:
                evolve(self.workflow, self.snapshot, decision, self.now, self.changes)
        return self

    def report(self, step_id: str, outcome: Outcome, *, took: float = 0.0) -> "Run":
        self.now += timedelta(seconds=took)
        self.snapshot.steps[step_id].report(outcome, self.now)
        return self.go_on()

    def succeed(self, step_id: str, output: Any = None, *, port: str | None = None, took: float = 0.0) -> "Run":
        ports = frozenset() if port is None else frozenset({port})
        return self.report(step_id, Succeeded(output, encode(output), ports), took=took)

    def fail(self, step_id: str, message: str = "broken", *, retryable: bool = False, jitter: float = 0.5) -> "Run":
        return self.report(step_id, Failed(Failure("broken", message, retryable), jitter))

    def sleep(self, step_id: str, seconds: float) -> "Run":
        return self.report(step_id, Slept(seconds, {"slept": seconds}, encode({"slept": seconds})))

    def lose(self, step_id: str) -> "Run":
        return self.report(step_id, Lost())

    def abort(self, step_id: str) -> "Run":
        return self.report(step_id, Aborted())

    def cancel(self, reason: str | None = "enough") -> "Run":
        self.snapshot.stop = Stop(StopReason.CANCELLED, reason, "user_1")
        return self.go_on()

    @property
    def status(self) -> str:
        return self.snapshot.status.value

    @property
    def statuses(self) -> dict[str, str]:
        return {name: state.status.value for name, state in self.snapshot.steps.items()}

    @property
    def events(self) -> list[Event]:
        return self.changes.events

    @property
    def told(self) -> list[str]:
        """Events as `type step`."""
        return [event.type if event.step_id is None else f"{event.type} {event.step_id}" for event in self.events]

    @property
    def started(self) -> list[str]:
        return [start.step_id for start in self.changes.starts]

    def data(self, kind: str, step_id: str | None = None) -> dict[str, Any]:
        """The data of the only event of a type (and step)."""
        (found,) = [e for e in self.events if e.type == kind and step_id in {None, e.step_id}]
        return dict(found.data)
