"""The decisions of the planner: a closed set of values, applied by `app.domain.evolution`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from app.domain.errors import Failure
from app.domain.snapshot import Slept, Stop, Succeeded


@dataclass(frozen=True, slots=True)
class Begin:
    """PENDING → RUNNING."""


@dataclass(frozen=True, slots=True)
class Resume:
    """WAITING → RUNNING: a time has come."""


@dataclass(frozen=True, slots=True)
class BeginStop:
    """The run is being stopped: no step starts from here on."""

    stop: Stop


@dataclass(frozen=True, slots=True)
class StartStep:
    """Make an attempt with this resolved `with`; `config_text` is its JSON."""

    step_id: str
    config: Mapping[str, Any]
    config_text: str


@dataclass(frozen=True, slots=True)
class CompleteStep:
    step_id: str
    result: Succeeded


@dataclass(frozen=True, slots=True)
class WakeStep:
    """A delay is over: the step completes with the output it went to sleep with."""

    step_id: str


@dataclass(frozen=True, slots=True)
class FailStep:
    """The step fails for good. `stops_run` is false with continue_on_error."""

    step_id: str
    failure: Failure
    stops_run: bool


@dataclass(frozen=True, slots=True)
class RetryStep:
    """The attempt failed and is made again after `delay` seconds."""

    step_id: str
    failure: Failure
    delay: float


@dataclass(frozen=True, slots=True)
class RecoverStep:
    """The attempt's worker was lost; the step may safely be started again at once."""

    step_id: str


@dataclass(frozen=True, slots=True)
class SuspendStep:
    """The step sleeps; it completes with `output` after `seconds`."""

    step_id: str
    sleep: Slept


@dataclass(frozen=True, slots=True)
class SkipStep:
    """The step has no turn in this run; the reason is a code."""

    step_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class CancelStep:
    """An attempt was aborted, or a waiting step given up, because the run is being stopped."""

    step_id: str


@dataclass(frozen=True, slots=True)
class Complete:
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
    | BeginStop
    | StartStep
    | CompleteStep
    | WakeStep
    | FailStep
    | RetryStep
    | RecoverStep
    | SuspendStep
    | SkipStep
    | CancelStep
    | Complete
    | Fail
    | Cancel
)
