"""Percentiles, medians and what was measured in one turn."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation; of nothing it is not a number."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    lower = int(position)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (ordered[upper] - ordered[lower]) * (position - lower)


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """What matters of a list of durations."""
    return {f"p{percent}_ms": round(percentile(seconds, percent) * 1000, 3) for percent in (50, 95, 99)}


def middle(values: Sequence[float]) -> float:
    """The median; of nothing it is not a number."""
    return statistics.median(values) if values else float("nan")


@dataclass(frozen=True, slots=True)
class Load:
    """Runs that were carried out: how many in how many seconds, and how long each took."""

    completed: int
    seconds: float
    durations: list[float]

    @property
    def per_second(self) -> float:
        return self.completed / self.seconds

    def figures(self) -> dict[str, Any]:
        """For the record."""
        return {
            "completed": self.completed,
            "seconds": round(self.seconds, 4),
            "per_second": round(self.per_second, 2),
            **milliseconds(self.durations),
        }
