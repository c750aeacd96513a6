"""What may be used, and whether it is used up: by one run, and by all runs of a workflow or organisation on a day."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from app.domain.definition import Budget


class Spent(NamedTuple):
    """What was used: attempts started, seconds, tokens, and US dollars."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    cost: float = 0.0

    def plus(self, steps: int = 0, seconds: float = 0.0, tokens: int = 0, cost: float = 0.0) -> "Spent":
        """This and something more."""
        return Spent(self.steps + steps, self.seconds + seconds, self.tokens + tokens, self.cost + cost)


NOTHING_SPENT = Spent()


@dataclass(frozen=True, slots=True)
class SharedBudget:
    """What all runs of a workflow, or of an organisation, may use on one day (UTC), and what they have used of it.

    Its seconds are those that attempts took, whatever ran beside them.
    """

    whose: Literal["workflow", "organization"]
    limits: Budget
    used: Spent = field(default_factory=Spent)


@dataclass(frozen=True, slots=True)
class UsedUp:
    """A limit that is reached. `budget` names it: `max_cost`, `organization.max_cost` …"""

    budget: str
    limit: float
    used: float
    sentence: str


def first_used_up(own: Budget, used: Spent, shared: Sequence[SharedBudget]) -> UsedUp | None:
    """The first limit that leaves no room for another attempt: of the run itself, then of those it shares."""
    for name, limit, amount in _reached(own, used):
        return UsedUp(name, limit, amount, f"The run has used {amount:g} of its {name} of {limit:g}")
    for budget in shared:
        for name, limit, amount in _reached(budget.limits, budget.used):
            sentence = f"The {budget.whose} has used {amount:g} of its {name} of {limit:g} for today"
            return UsedUp(f"{budget.whose}.{name}", limit, amount, sentence)
    return None


def _reached(limits: Budget, used: Spent) -> Iterator[tuple[str, float, float]]:
    for name, limit, amount in (
        ("max_cost", limits.max_cost, used.cost),
        ("max_tokens", limits.max_tokens, used.tokens),
        ("max_steps", limits.max_steps, used.steps),
        ("max_duration", limits.max_duration, used.seconds),
    ):
        if limit is not None and amount >= limit:
            yield name, float(limit), float(amount)
