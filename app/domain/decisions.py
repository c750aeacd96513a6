"""The decisions of the planner: a closed set of values, applied by `app.domain.evolution`.

Those of every run are named tuples, which take less than half the time to make.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from app.domain.budgets import UsedUp
from app.domain.control import Gate, Pause, Stop
from app.domain.errors import Failure
from app.domain.jsontext import JSON
from app.domain.step_state import Parked, Slept, Succeeded


@dataclass(frozen=True, slots=True)
class Begin:
    """PENDING → RUNNING."""


@dataclass(frozen=True, slots=True)
class Resume:
    """WAITING or PAUSED → RUNNING; the reason is a word: `due`, `signal`, `resumed` …"""

    reason: str


@dataclass(frozen=True, slots=True)
class BeginStop:
    """The run is being stopped: no step starts from here on."""

    stop: Stop


@dataclass(frozen=True, slots=True)
class Hold:
    """No step starts from here on; with `used_up` because of a budget."""

    pause: Pause
    used_up: UsedUp | None = None


@dataclass(frozen=True, slots=True)
class EnterPause:
    """RUNNING or WAITING → PAUSED: what was under way has ended."""


class StartStep(NamedTuple):
    """Make an attempt with this resolved `with`; `config_text` is its JSON, `cache_key` that of a result to reuse."""

    path: str
    config: Mapping[str, Any]
    config_text: str
    cache_key: str | None = None


@dataclass(frozen=True, slots=True)
class StartMap:
    """Run the step once for each of these values."""

    path: str
    values: Sequence[JSON]


class CompleteStep(NamedTuple):
    """`letters` are the ids of those that ended its wait."""

    path: str
    result: Succeeded
    letters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RepeatStep:
    """A round ended and another one follows after `delay` seconds."""

    path: str
    result: Succeeded
    delay: float
    letters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PinStep:
    """The step does not run: its output was given."""

    path: str
    result: Succeeded


@dataclass(frozen=True, slots=True)
class EditStep:
    """A person replaces the output of a completed step."""

    path: str
    output: JSON
    output_text: str
    user_id: str | None


@dataclass(frozen=True, slots=True)
class FailStep:
    """The step fails for good. `stops_run` is false with continue_on_error, and for items."""

    path: str
    failure: Failure
    stops_run: bool
    letters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RetryStep:
    """The attempt failed and is made again after `delay` seconds."""

    path: str
    failure: Failure
    delay: float
    letters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecoverStep:
    """The attempt's worker was lost; the step may safely be started again at once."""

    path: str


@dataclass(frozen=True, slots=True)
class SuspendStep:
    """The step sleeps; it completes with `output` after `seconds`."""

    path: str
    sleep: Slept


@dataclass(frozen=True, slots=True)
class ParkStep:
    """The step waits for letters."""

    path: str
    parked: Parked


@dataclass(frozen=True, slots=True)
class OpenGate:
    """Before it completes, the run waits for an approval."""

    gate: Gate


@dataclass(frozen=True, slots=True)
class PassGate:
    """The run was approved."""

    letters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CloseGate:
    """The run was not approved: it fails."""

    failure: Failure
    letters: tuple[str, ...]
    status: str


@dataclass(frozen=True, slots=True)
class SkipStep:
    """The step has no turn in this run; the reason is a code."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class CancelStep:
    """An attempt was aborted, or a waiting step given up, because the run is being stopped."""

    path: str


class Complete(NamedTuple):
    """Every step is settled; `output_text` is the JSON of the run's output."""

    output_text: str
    risk_score: float | None
    requires_approval: bool


@dataclass(frozen=True, slots=True)
class Fail:
    """`step_id` is the step that failed first, if one did."""

    failure: Failure
    step_id: str | None


@dataclass(frozen=True, slots=True)
class Cancel:
    stop: Stop


Decision: TypeAlias = (
    Begin
    | Resume
    | Hold
    | EnterPause
    | BeginStop
    | StartStep
    | StartMap
    | CompleteStep
    | RepeatStep
    | PinStep
    | EditStep
    | FailStep
    | RetryStep
    | RecoverStep
    | SuspendStep
    | ParkStep
    | SkipStep
    | CancelStep
    | OpenGate
    | PassGate
    | CloseGate
    | Complete
    | Fail
    | Cancel
)
