"""All facts the planner may read about one execution, and the vocabulary of what can happen to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from app.domain.errors import Failure
from app.domain.jsontext import JSON
from app.domain.states import ExecutionStatus, StepStatus
from app.domain.steps import Usage


class WaitReason(StrEnum):
    """Why a step is WAITING."""

    RETRY = "retry"
    DELAY = "delay"


class StopReason(StrEnum):
    """Why a run is being stopped before its steps are done."""

    CANCELLED = "cancelled"
    TIMED_OUT = "execution_timed_out"


CUT_OFF_REASONS = frozenset({"execution_failed", "execution_cancelled", "execution_timed_out"})
"""Why a step was skipped because the run ended, not because of the graph."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The run is being stopped. `detail` is the reason a person gave, `user_id` that person."""

    reason: StopReason
    detail: str | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Succeeded:
    """An attempt ended well; `output` is scrubbed, capped and known to be JSON."""

    output: JSON
    output_text: str
    ports: frozenset[str] = frozenset()
    usage: Usage = field(default_factory=Usage)
    agent_result: JSON = None


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt failed; `jitter` in [0, 1) was drawn for its retry."""

    failure: Failure
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Slept:
    """An attempt asked to be completed with `output` after `seconds`."""

    seconds: float
    output: JSON
    output_text: str


@dataclass(frozen=True, slots=True)
class Aborted:
    """An attempt ended, or was given up, because the run is being stopped."""


@dataclass(frozen=True, slots=True)
class Lost:
    """An attempt's worker died; whether its effect happened is unknown."""


Outcome: TypeAlias = Succeeded | Failed | Slept | Aborted | Lost


@dataclass(slots=True)
class StepState:
    """One step of a run. `attempt` numbers its newest attempt, `failures` counts those the retry policy counts.

    `outcome` is what the newest attempt reported (at `outcome_at`) and the planner has not decided on yet; it is never
    stored. `execution_time_ms` is the time of the newest attempt.
    """

    status: StepStatus = StepStatus.PENDING
    attempt: int = 0
    failures: int = 0
    input_text: str | None = None
    output: JSON = None
    output_text: str | None = None
    ports: frozenset[str] = frozenset()
    failure: Failure | None = None
    skip_reason: str | None = None
    wait: WaitReason | None = None
    wake_at: datetime | None = None
    started_at: datetime | None = None
    attempt_started_at: datetime | None = None
    completed_at: datetime | None = None
    execution_time_ms: float | None = None
    usage: Usage = field(default_factory=Usage)
    outcome: Outcome | None = None
    outcome_at: datetime | None = None

    @property
    def cut_off(self) -> bool:
        """The run was over before the step had its turn or its end."""
        return self.status is StepStatus.CANCELLED or self.skip_reason in CUT_OFF_REASONS

    def report(self, outcome: Outcome, at: datetime) -> None:
        """Take note of how the newest attempt ended."""
        self.outcome, self.outcome_at = outcome, at


@dataclass(frozen=True, slots=True)
class FirstFailure:
    """The first failure that stops a run: the one shown as its error."""

    step_id: str
    failure: Failure


@dataclass(slots=True)
class Snapshot:
    """One execution as its owner knows it. `context` holds the `execution.*` values of expressions."""

    execution_id: str
    status: ExecutionStatus
    input: JSON
    context: Mapping[str, JSON]
    steps: dict[str, StepState]
    next_seq: int = 1
    progress: int = 0
    started_at: datetime | None = None
    deadline: datetime | None = None
    stop: Stop | None = None
    first_failure: FirstFailure | None = None
    agent_results: dict[str, JSON] = field(default_factory=dict)

    def lookup(self, name: str) -> JSON:
        """The value of a name in expressions."""
        root, _, rest = name.partition(".")
        if root == "input":
            return self.input
        if root == "execution":
            return self.context[rest]
        step_id, _, what = rest.rpartition(".")
        step = self.steps[step_id]
        if what == "output":
            return step.output
        if what == "status":
            return step.status.value
        return None if step.failure is None else {"code": step.failure.code, "message": step.failure.message}

    @property
    def running(self) -> list[str]:
        """Ids of steps with an attempt under way."""
        return [step_id for step_id, step in self.steps.items() if step.status is StepStatus.RUNNING]

    @property
    def counted(self) -> int:
        """Steps that count as progress: the settled ones, but for those that the end of the run cut off."""
        return sum(1 for step in self.steps.values() if step.status.settled and not step.cut_off)
