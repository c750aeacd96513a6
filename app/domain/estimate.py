"""How far a run is by the time its steps usually take, and when it will probably end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.states import ExecutionStatus, StepStatus
from app.domain.step_state import CUT_OFF_REASONS

_LEAST_MS = 1.0
_NEARLY_DONE = 0.95
"""A step that takes longer than usual counts as this far; it is not done."""
_MOVING = frozenset({ExecutionStatus.RUNNING, ExecutionStatus.WAITING})
_TIMED = frozenset({"delay", "retry", "repeat"})


@dataclass(frozen=True, slots=True)
class StepNow:
    """One step of the definition as it is now; `since` is when it started, `needs` the steps before it."""

    step_id: str
    status: StepStatus = StepStatus.PENDING
    reason: str | None = None
    since: datetime | None = None
    wake_at: datetime | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """`weighted_progress` from 0 to 100; None where nothing is known about how long such a run takes."""

    weighted_progress: float | None
    eta: datetime | None


UNKNOWN = Estimate(None, None)


def estimate(
    status: ExecutionStatus, steps: Sequence[StepNow], history: Mapping[str, float], now: datetime
) -> Estimate:
    """Weigh every step by its mean time in milliseconds over earlier completed runs (0 where they skipped it).

    `steps` are in topological order. A step that earlier runs did not have counts like the mean of the others. There is
    no `eta` for a run that has ended, does not move, or waits for people without a deadline to go by.
    """
    known = [max(history[step.step_id], 0.0) for step in steps if step.step_id in history]
    if not known:
        return Estimate(100.0, None) if status is ExecutionStatus.COMPLETED else UNKNOWN
    usual = sum(known) / len(known)
    weights = {step.step_id: max(history.get(step.step_id, usual), _LEAST_MS) for step in steps}
    if status is ExecutionStatus.COMPLETED:
        return Estimate(100.0, None)
    done = sum(_fraction(step, weights[step.step_id], now) * weights[step.step_id] for step in steps)
    progress = round(100 * done / sum(weights.values()), 1)
    if status not in _MOVING:
        return Estimate(progress, None)
    remaining = _longest_way(steps, weights, now)
    return Estimate(progress, None if remaining is None else now + timedelta(milliseconds=remaining))


def _fraction(step: StepNow, weight: float, now: datetime) -> float:
    if step.status.settled:
        cut_off = step.status is StepStatus.CANCELLED or step.reason in CUT_OFF_REASONS
        return 0.0 if cut_off else 1.0
    if step.status is StepStatus.PENDING or step.since is None:
        return 0.0
    return min(_elapsed(step.since, now) / weight, _NEARLY_DONE)


def _longest_way(steps: Sequence[StepNow], weights: Mapping[str, float], now: datetime) -> float | None:
    """Milliseconds to the end along the longest way through what is left to do."""
    ends: dict[str, float] = {}
    for step in steps:
        left = _left(step, weights[step.step_id], now)
        if left is None:
            return None
        ends[step.step_id] = left + max((ends.get(need, 0.0) for need in step.needs), default=0.0)
    return max(ends.values(), default=0.0)


def _left(step: StepNow, weight: float, now: datetime) -> float | None:
    if step.status.settled:
        return 0.0
    if step.status is StepStatus.WAITING and step.wake_at is not None and step.reason in _TIMED:
        until = max((step.wake_at - now).total_seconds() * 1000, 0.0)
        return until if step.reason == "delay" else until + weight
    elapsed = 0.0 if step.since is None else _elapsed(step.since, now)
    if step.status is StepStatus.WAITING and elapsed > weight:
        return None  # it waits for people or other runs, and for longer than they usually take
    return max(weight - elapsed, 0.0)


def _elapsed(since: datetime, now: datetime) -> float:
    return max((now - since).total_seconds() * 1000, 0.0)
