"""What people have asked of a run and what holds it: the facts about a run that are no step's.

They are recorded with the transition that changes them, as one JSON text, so that whoever owns the run next knows them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.domain.definition import Budget
from app.domain.events import timestamp_text
from app.domain.jsontext import JSON
from app.domain.waits import ApprovalWait, approval_from, wait_json

NO_BUDGET = Budget()
HOPS_HEADER = "stepstream-hops"
MAX_HOPS = 8
"""A request of a run that starts a run, whose request starts a run, and so on, in any installation: that is a loop."""


class StopReason(StrEnum):
    """Why a run is being stopped before its steps are done."""

    CANCELLED = "cancelled"
    TIMED_OUT = "execution_timed_out"
    QUEUE_EXPIRED = "queue_expired"


@dataclass(frozen=True, slots=True)
class Stop:
    """The run is being stopped. `detail` is the reason a person gave, `user_id` that person.

    A forced stop waits for no attempt. `code` says which rule cancelled the run, when no person did.
    """

    reason: StopReason
    detail: str | None = None
    user_id: str | None = None
    forced: bool = False
    code: str | None = None


class PauseReason(StrEnum):
    """What paused a run: a person, a breakpoint, stepping through, or a budget used up."""

    PAUSED = "paused"
    BREAKPOINT = "breakpoint"
    STEPPING = "stepping"
    BUDGET_EXCEEDED = "budget_exceeded"


@dataclass(frozen=True, slots=True)
class Pause:
    """No step starts. `since` is set once the run is PAUSED, `at` names the step it is held before.

    `lifted` once somebody asked to go on, `lifted_by` that person.
    """

    reason: PauseReason
    detail: str | None = None
    user_id: str | None = None
    at: str | None = None
    since: datetime | None = None
    lifted: bool = False
    lifted_by: str | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """The approval that a run above its risk limit waits for before it completes."""

    approval: ApprovalWait
    deadline: datetime | None
    approved: bool = False


@dataclass(slots=True)
class Control:
    """See the fields' types. `steps_left` counts the starts allowed while stepping through, None: not stepping.

    `passed` are the breakpoints gone through, `frozen` the seconds spent PAUSED, `only` the one step to run. `again`
    counts, for steps that had happened in an earlier run, how often they were done again on purpose. `start_at` is
    when a run that has not begun may do so. `hops` is how many runs led to this one by HTTP.
    """

    stop: Stop | None = None
    pause: Pause | None = None
    gate: Gate | None = None
    breakpoints: frozenset[str] = frozenset()
    passed: frozenset[str] = frozenset()
    steps_left: int | None = None
    pins: dict[str, JSON] = field(default_factory=dict)
    only: str | None = None
    budget: Budget = NO_BUDGET
    frozen: float = 0.0
    again: dict[str, int] = field(default_factory=dict)
    start_at: datetime | None = None
    hops: int = 0

    @property
    def held(self) -> bool:
        """No step may start."""
        return self.pause is not None

    def let_go_on(self) -> None:
        """Nothing holds the run any more, nor does the breakpoint that did."""
        if self.pause is not None and self.pause.reason is PauseReason.BREAKPOINT and self.pause.at is not None:
            self.passed |= {self.pause.at} & self.breakpoints
        self.pause = None


def control_json(control: Control) -> dict[str, JSON]:
    """Everything that is not as in a fresh run; see `control_from`."""
    found: dict[str, JSON] = {}
    if (stop := control.stop) is not None and stop.reason is StopReason.CANCELLED:
        found["stop"] = _present(
            reason=stop.reason.value, detail=stop.detail, user_id=stop.user_id, forced=stop.forced, code=stop.code
        )
    if (pause := control.pause) is not None:
        found["pause"] = _present(
            reason=pause.reason.value, detail=pause.detail, user_id=pause.user_id, at=pause.at,
            since=_text(pause.since), lifted=pause.lifted, lifted_by=pause.lifted_by,
        )  # fmt: skip
    if (gate := control.gate) is not None:
        found["gate"] = _present(
            approval=wait_json(gate.approval), deadline=_text(gate.deadline), approved=gate.approved
        )
    if control.breakpoints:
        found["breakpoints"] = [*sorted(control.breakpoints)]
    if control.passed:
        found["passed"] = [*sorted(control.passed)]
    if control.steps_left is not None:
        found["steps_left"] = control.steps_left
    if control.pins:
        found["pins"] = control.pins
    if control.only:
        found["only"] = control.only
    if control.budget is not NO_BUDGET and (limits := control.budget.model_dump(exclude_none=True)):
        found["budget"] = limits
    if control.frozen:
        found["frozen"] = control.frozen
    if control.again:
        found["again"] = {**control.again}
    if control.start_at is not None:
        found["start_at"] = timestamp_text(control.start_at)
    if control.hops:
        found["hops"] = control.hops
    return found


def control_from(value: JSON) -> Control:
    """The facts that `control_json` wrote, or that a start asks for, such as `breakpoints` and `pins`."""
    known: Mapping[str, Any] = value if isinstance(value, dict) else {}
    if not known:
        return Control()
    stop, pause, gate = known.get("stop"), known.get("pause"), known.get("gate")
    return Control(
        stop=None if stop is None else Stop(**stop | {"reason": StopReason(stop["reason"])}),
        pause=None
        if pause is None
        else Pause(**pause | {"reason": PauseReason(pause["reason"]), "since": _moment(pause.get("since"))}),
        gate=None
        if gate is None
        else Gate(approval_from(gate["approval"]), _moment(gate.get("deadline")), gate.get("approved", False)),
        breakpoints=frozenset(known.get("breakpoints", ())),
        passed=frozenset(known.get("passed", ())),
        steps_left=known.get("steps_left"),
        pins=dict(known.get("pins", {})),
        only=known.get("only"),
        budget=with_budget(NO_BUDGET, known.get("budget", {})),
        frozen=known.get("frozen", 0.0),
        again=dict(known.get("again", {})),
        start_at=_moment(known.get("start_at")),
        hops=known.get("hops", 0),
    )


def with_budget(budget: Budget, changes: Mapping[str, Any]) -> Budget:
    """A budget with other limits; raises pydantic's ValidationError."""
    if not changes:
        return budget
    changed = Budget.model_validate(budget.model_dump(exclude_none=True) | dict(changes))
    return NO_BUDGET if changed == NO_BUDGET else changed


def _present(**fields: JSON) -> dict[str, JSON]:
    return {name: value for name, value in fields.items() if value}


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp_text(moment)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
