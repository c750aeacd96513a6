"""All facts the planner may read about one execution, and the vocabulary of what can happen to it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from app.domain.budgets import SharedBudget
from app.domain.control import Control, Stop
from app.domain.errors import Failure
from app.domain.expressions import Lookup
from app.domain.jsontext import JSON
from app.domain.mail import Mail
from app.domain.states import ExecutionStatus, StepStatus
from app.domain.steps import NO_USAGE, Usage
from app.domain.waits import Awaited


class WaitReason(StrEnum):
    """Why a step is WAITING."""

    RETRY = "retry"
    DELAY = "delay"
    REPEAT = "repeat"
    SIGNAL = "signal"
    APPROVAL = "approval"
    CHILD = "child"


CUT_OFF_REASONS = frozenset({"execution_failed", "execution_cancelled", "execution_timed_out", "execution_expired"})
"""Why a step was skipped because the run ended, not because of the graph."""


@dataclass(frozen=True, slots=True)
class Succeeded:
    """An attempt ended well; `output` is scrubbed, capped and known to be JSON. `note` says how, if not by running."""

    output: JSON
    output_text: str
    ports: frozenset[str] = frozenset()
    usage: Usage = NO_USAGE
    agent_result: JSON = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt failed; `jitter` in [0, 1) was drawn for its retry, `trace` is the stack of an unexpected error."""

    failure: Failure
    jitter: float = 0.0
    trace: str | None = None
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True)
class Slept:
    """An attempt asked to be completed with `output` after `seconds`."""

    seconds: float
    output: JSON
    output_text: str


@dataclass(frozen=True, slots=True)
class Parked:
    """An attempt asked to be settled by letters, or after `seconds` without them; None: however long it takes."""

    awaited: Awaited
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Aborted:
    """An attempt ended, or was given up, because the run is being stopped."""

    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True)
class Lost:
    """An attempt's worker died; whether its effect happened is unknown."""


Outcome: TypeAlias = Succeeded | Failed | Slept | Parked | Aborted | Lost


@dataclass(slots=True)
class StepState:
    """One step of a run, or one item of a step with `for_each`.

    `attempt` numbers its newest attempt, `failures` counts those the retry policy counts, `iteration` the rounds that
    `repeat` has finished. `outcome` is what the newest attempt reported (at `outcome_at`) and the planner has not
    decided on yet; it is never stored. `execution_time_ms` is the time of the newest attempt. `reason` says why a step
    was skipped, or how it completed without running. `items` is the number of items of a `for_each`.
    """

    status: StepStatus = StepStatus.PENDING
    attempt: int = 0
    failures: int = 0
    iteration: int = 0
    items: int | None = None
    input_text: str | None = None
    output: JSON = None
    output_text: str | None = None
    ports: frozenset[str] = frozenset()
    failure: Failure | None = None
    reason: str | None = None
    wait: WaitReason | None = None
    awaited: Awaited | None = None
    wake_at: datetime | None = None
    started_at: datetime | None = None
    attempt_started_at: datetime | None = None
    completed_at: datetime | None = None
    execution_time_ms: float | None = None
    usage: Usage = NO_USAGE
    reused_from: str | None = None
    edited_by: str | None = None
    outcome: Outcome | None = None
    outcome_at: datetime | None = None

    @property
    def cut_off(self) -> bool:
        """The run was over before the step had its turn or its end."""
        return self.status is StepStatus.CANCELLED or self.reason in CUT_OFF_REASONS


@dataclass(slots=True)
class MapState:
    """The items of a `for_each` step: those under way, and of the settled ones only what the result needs.

    `results` has the JSON of an item's output by its index, None for one that failed. `told_at` is when it was last
    told how far they have come. Planning costs what is under way, however many items there are.
    """

    values: Sequence[JSON] = ()
    active: dict[int, StepState] = field(default_factory=dict)
    results: dict[int, str | None] = field(default_factory=dict)
    next_index: int = 0
    failure: Failure | None = None
    told_at: datetime | None = None

    @property
    def exhausted(self) -> bool:
        """No item is left to start."""
        return self.next_index >= len(self.values)

    def began(self, index: int) -> None:
        """An item has begun; what follows and is settled already is passed over."""
        self.next_index = index
        while self.next_index in self.active or self.next_index in self.results:
            self.next_index += 1


@dataclass(frozen=True, slots=True)
class FirstFailure:
    """The first failure that stops a run: the one shown as its error."""

    step_id: str
    failure: Failure


@dataclass(slots=True)
class Snapshot:
    """One execution as its owner knows it. `context` holds the `execution.*` values of expressions.

    `may_run` is false for an owner that holds no slot and may only take mail in. `letters` are those that no wait has
    used yet, in the order they were sent. `reported` are the paths with an outcome to decide on, `starts` the number of
    attempts started, `shared_budgets` those of the day as last heard.
    """

    execution_id: str
    status: ExecutionStatus
    input: JSON
    context: Mapping[str, JSON]
    steps: dict[str, StepState]
    next_seq: int = 1
    progress: int = 0
    started_at: datetime | None = None
    deadline: datetime | None = None
    control: Control = field(default_factory=Control)
    first_failure: FirstFailure | None = None
    agent_results: dict[str, JSON] = field(default_factory=dict)
    maps: dict[str, MapState] = field(default_factory=dict)
    letters: list[Mail] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)
    starts: int = 0
    may_run: bool = True
    shared_budgets: Sequence[SharedBudget] = ()

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

    def lookup_for(self, path: str) -> Lookup:
        """The values of names for one step or item: also `item` and `index`, and `output` of the round before."""
        step_id, index = split_path(path)
        state = self.steps[step_id]

        def lookup(name: str) -> JSON:
            match name:
                case "item" if index is not None:
                    return self.maps[step_id].values[index]
                case "index":
                    return state.iteration if index is None else index
                case "output":
                    return state.output
                case _:
                    return self.lookup(name)

        return lookup

    def state(self, path: str) -> StepState:
        """The state of a step, or of an item that is under way."""
        step_id, index = split_path(path)
        return self.steps[step_id] if index is None else self.maps[step_id].active[index]

    def report(self, path: str, outcome: Outcome, at: datetime) -> None:
        """Take note of how the newest attempt of a step or item ended."""
        state = self.state(path)
        state.outcome, state.outcome_at = outcome, at
        self.reported.append(path)

    def unsettled(self) -> Iterator[tuple[str, StepState]]:
        """Steps and items that are under way or wait, by path; a step with items itself is not."""
        for step_id, step in self.steps.items():
            if step.status not in {StepStatus.RUNNING, StepStatus.WAITING}:
                continue
            if step.items is None:
                yield step_id, step
            else:
                for index, item in self.maps[step_id].active.items():
                    yield item_path(step_id, index), item

    @property
    def awaits_letters(self) -> bool:
        """Whether a letter could settle something."""
        return self.control.gate is not None or any(state.awaited is not None for _, state in self.unsettled())

    @property
    def running(self) -> list[str]:
        """Paths with an attempt under way."""
        return [path for path, step in self.unsettled() if step.status is StepStatus.RUNNING]

    @property
    def stop(self) -> Stop | None:
        return self.control.stop

    @property
    def counted(self) -> int:
        """Steps that count as progress: the settled ones, but for those that the end of the run cut off."""
        return sum(1 for step in self.steps.values() if step.status.settled and not step.cut_off)


def item_path(step_id: str, index: int) -> str:
    """The path of an item of a `for_each` step."""
    return f"{step_id}[{index}]"


def split_path(path: str) -> tuple[str, int | None]:
    """Step id and item index (None for the step itself) of a path."""
    step_id, bracket, rest = path.partition("[")
    return step_id, int(rest[:-1]) if bracket else None
