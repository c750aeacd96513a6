"""A log in memory that the test holds back, and events for it."""

import asyncio
from collections.abc import Mapping, Sequence

from app import clock
from app.domain.changes import Event

NOW = clock.now()
EXECUTION, ORG = "exec_1", "org_a"


def event(seq: int, kind: str = "step_log") -> Event:
    return Event(seq, kind, "a", NOW, 0, {})  # type: ignore[typeddict-item]


def events(first: int, last: int, *, ends: bool = False) -> list[Event]:
    """Events first to last; with `ends` the last is the terminal one."""
    kinds = ["step_log"] * (last - first) + ["execution_completed" if ends else "step_log"]
    return [event(seq, kind) for seq, kind in zip(range(first, last + 1), kinds, strict=True)]


class MemoryLog:
    """Implements EventLog; while `free` is clear, readings wait."""

    def __init__(self) -> None:
        self.stored: list[Event] = []
        self.reads: list[int] = []
        self.error: Exception | None = None
        self.reading = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()

    async def read(
        self, org_id: str, execution_id: str, after: int, limit: int, step_id: str | None = None
    ) -> Sequence[Event]:
        found = [each for each in self.stored if each.seq > after][:limit]
        self.reads.append(after)
        self.reading.set()
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return found

    async def heads(self, execution_ids: Sequence[str]) -> Mapping[str, int]:
        return {each: self.stored[-1].seq for each in execution_ids if self.stored}

    async def ended(self, org_id: str, execution_id: str) -> bool:
        self.reading.set()
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return bool(self.stored) and self.stored[-1].type == "execution_completed"
