"""What came out: a figure, the limit's beside it, and what the project wants of their ratio."""

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from app.bench.figures import middle

Name = TypeVar("Name", bound=Hashable)
Verdict = Literal["goal", "floor", "below"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a ratio, or a value where there is no limit, should reach."""

    goal: float
    floor: float | None
    higher: bool = False

    def verdict(self, value: float) -> Verdict:
        """Whether the goal is reached, or the floor at least."""
        if self._reaches(value, self.goal):
            return "goal"
        return "floor" if self.floor is None or self._reaches(value, self.floor) else "below"

    def _reaches(self, value: float, bound: float) -> bool:
        return value >= bound if self.higher else value <= bound


@dataclass(frozen=True, slots=True)
class Result:
    """A line of the table: medians over the rounds."""

    name: str
    unit: str
    value: float
    limit: float | None = None
    ratio: float | None = None
    wanted: Wanted | None = None
    note: str = ""

    @property
    def verdict(self) -> Verdict | None:
        judged = self.value if self.limit is None else self.ratio
        return None if self.wanted is None or judged is None else self.wanted.verdict(judged)

    def record(self) -> dict[str, Any]:
        """For the JSON."""
        return {**asdict(self), "verdict": self.verdict}


@dataclass(slots=True)
class Outcome:
    """A scenario's lines, and every measurement behind them."""

    results: list[Result] = field(default_factory=list)
    measurements: dict[str, Any] = field(default_factory=dict)
    void: list[str] = field(default_factory=list)
    """Why the run says nothing."""


def against(
    name: str,
    unit: str,
    ours: Sequence[float],
    limit: Sequence[float],
    wanted: Wanted | None = None,
    note: str = "",
) -> Result:
    """Medians, and the median of the ratios of each round; there is none where the limit was too small to measure."""
    ratios = [own / bare for own, bare in zip(ours, limit, strict=True) if bare > 0]
    return Result(name, unit, middle(ours), middle(limit), middle(ratios) if ratios else None, wanted, note)


async def in_rounds(rounds: int, turns: Mapping[Name, Callable[[], Awaitable[Any]]]) -> dict[Name, list[Any]]:
    """Everybody's turns, one after the other, in the opposite order every second round."""
    measured: dict[Name, list[Any]] = {name: [] for name in turns}
    for number in range(rounds):
        names = list(turns)
        for name in names if number % 2 == 0 else reversed(names):
            measured[name].append(await turns[name]())
    return measured
