"""One step of a run: what can happen to an attempt of it, and what is known of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from app.domain.errors import Failure
from app.domain.jsontext import JSON
from app.domain.states import StepStatus
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


class Succeeded(NamedTuple):
    """An attempt ended well; `output` is scrubbed, capped and known to be JSON. `note` says how, if not by running."""

    output: JSON
    output_text: str
    ports: frozenset[str] = frozenset()
    usage: Usage = NO_USAGE
    agent_result: JSON = None
    note: str | None = None


class Failed(NamedTuple):
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


class Aborted(NamedTuple):
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
