"""All facts the planner may read about one execution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from app.domain.budgets import SharedBudget
from app.domain.control import Control
from app.domain.errors import Failure
from app.domain.expressions import Lookup
from app.domain.frontier import Frontier
from app.domain.jsontext import JSON
from app.domain.mail import Mail
from app.domain.states import ExecutionStatus, StepStatus
from app.domain.step_state import MapState, Outcome, StepState
from app.domain.steps import NO_USAGE, Usage


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
    attempts started, `shared_budgets` those of the day as last heard. `counted` are the steps that count as progress:
    the settled ones, but for those that the end of the run cut off.
    """

    execution_id: str
    status: ExecutionStatus
    input: JSON
    context: Mapping[str, JSON]
    steps: dict[str, StepState]
    frontier: Frontier
    counted: int = 0
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
        state = self.steps.get(path)
        if state is not None:
            return state
        step_id, index = split_item(path)
        return self.maps[step_id].active[index]

    def report(self, path: str, outcome: Outcome, at: datetime) -> None:
        """Take note of how the newest attempt of a step or item ended."""
        state = self.state(path)
        state.outcome, state.outcome_at = outcome, at
        self.reported.append(path)

    def unsettled(self) -> list[tuple[str, StepState]]:
        """Steps and items that are under way or wait, by path; a step with items itself is not."""
        found: list[tuple[str, StepState]] = []
        for step, state in self.frontier.unsettled():
            if state.items is None:
                found.append((step.id, state))
            else:
                found += [(item_path(step.id, index), item) for index, item in self.maps[step.id].active.items()]
        return found

    @property
    def usage(self) -> Usage:
        """What all steps have used together."""
        used = NO_USAGE
        for step in self.steps.values():
            if step.usage is not NO_USAGE:
                used += step.usage
        return used

    @property
    def awaits_letters(self) -> bool:
        """Whether a letter could settle something."""
        return self.control.gate is not None or any(state.awaited is not None for _, state in self.unsettled())

    @property
    def running(self) -> list[str]:
        """Paths with an attempt under way."""
        return [path for path, step in self.unsettled() if step.status is StepStatus.RUNNING]

    @property
    def goes_on(self) -> bool:
        """It is under way, and nothing stops or holds it."""
        control = self.control
        return self.status is ExecutionStatus.RUNNING and control.stop is None and control.pause is None


def item_path(step_id: str, index: int) -> str:
    """The path of an item of a `for_each` step."""
    return f"{step_id}[{index}]"


def split_path(path: str) -> tuple[str, int | None]:
    """Step id and item index (None for the step itself) of a path."""
    return split_item(path) if path.endswith("]") else (path, None)


def split_item(path: str) -> tuple[str, int]:
    """Step id and item index of the path of an item."""
    step_id, _, rest = path.partition("[")
    return step_id, int(rest[:-1])
