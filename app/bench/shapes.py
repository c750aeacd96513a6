"""The workflows that are measured, in a form that also says which rows a run of them leaves."""

from dataclasses import dataclass
from typing import Any

EXECUTIONS, STEPS, ATTEMPTS, EVENTS, AUDIT = "executions", "steps", "attempts", "events", "audit rows"
_RUN_EVENTS = 3
_RUN_AUDIT = 2


@dataclass(frozen=True, slots=True)
class Wave:
    """Steps that run side by side, each behind its share of the wave before.

    They log a line, or compute a Fibonacci number. With `items_at_once` they are the items of one `for_each`.
    """

    size: int
    fibonacci: int | None = None
    items_at_once: int | None = None

    @property
    def events(self) -> int:
        """Events that a run writes for this wave; of items that is not fixed."""
        return self.size * (2 if self.fibonacci is not None else 3)

    @property
    def work(self) -> dict[str, Any]:
        """What each of its steps does; it has an effect, so that its start is durable before it begins."""
        if self.fibonacci is None:
            return {"type": "log", "with": {"message": "done"}}
        return {"type": "function", "with": {"function": "fibonacci", "args": {"n": self.fibonacci}}}


@dataclass(frozen=True, slots=True)
class Shape:
    """A workflow of waves."""

    name: str
    waves: tuple[Wave, ...]

    @property
    def workflow_id(self) -> str:
        return f"bench_{self.name}"

    @property
    def has_items(self) -> bool:
        return any(wave.items_at_once for wave in self.waves)

    def document(self) -> dict[str, Any]:
        """The workflow's definition."""
        steps: list[dict[str, Any]] = []
        before: list[str] = []
        for number, wave in enumerate(self.waves):
            width = 1 if wave.items_at_once else wave.size
            names = [f"s{number}_{n}" for n in range(width)]
            for n, name in enumerate(names):
                steps.append({"id": name, "needs": _share(before, n, width), **wave.work, **_items(wave)})
            before = names
        return {"name": self.name, "steps": steps}

    def rows(self, runs: int) -> dict[str, int]:
        """How many rows so many completed runs leave; the number of events is not fixed where there are items."""
        items = sum(1 for wave in self.waves if wave.items_at_once)
        attempts = sum(wave.size for wave in self.waves)
        rows = {
            EXECUTIONS: runs,
            STEPS: runs * (attempts + items),
            ATTEMPTS: runs * attempts,
            EVENTS: runs * (_RUN_EVENTS + sum(wave.events for wave in self.waves)),
            AUDIT: runs * _RUN_AUDIT,
        }
        if self.has_items:
            del rows[EVENTS]
        return rows


def _share(before: list[str], number: int, width: int) -> list[str]:
    if len(before) < width:
        return before[number % len(before) :][:1] if before else []
    size = len(before) // width
    return before[number * size : (number + 1) * size]


def _items(wave: Wave) -> dict[str, Any]:
    if wave.items_at_once is None:
        return {}
    return {"for_each": list(range(wave.size)), "max_parallel": wave.items_at_once}


THREE_STEPS = Shape("three_steps", (Wave(1),) * 3)
FORTY_STEPS = Shape("forty_steps", (Wave(1, fibonacci=10),) * 40)
TEN_STEPS = Shape("ten_steps", (Wave(1, fibonacci=25),) * 10)
FAN_OUT = Shape("fan_out", (Wave(100), Wave(4), Wave(1)))
"""A step has 32 needs at most: four steps join 25 each, and one joins those."""
ITEMS = Shape("items", (Wave(10_000, items_at_once=100),))

SHAPES = {shape.name: shape for shape in (THREE_STEPS, FORTY_STEPS, TEN_STEPS, FAN_OUT, ITEMS)}
