"""One execution of the limit: accepted, started, then wave after wave, each durable before the next begins."""

from collections.abc import Iterator, Sequence
from time import perf_counter

import orjson

from app import clock
from app.bench.limit.record import EventRow, Record, StepRow, Write
from app.bench.shapes import Shape, Wave
from app.steps.functions import fibonacci

_WALL = clock.now().timestamp() - perf_counter()
EPOCH = 1
_LOGGED = '{"message":"done","level":"info"}'


class Execution:
    """The write position of one run, and what its next commit will say."""

    def __init__(self, record: Record, execution_id: str, shape: Shape) -> None:
        self._record = record
        self._id = execution_id
        self._shape = shape
        self._write_no = 0
        self._next_seq = 2
        self._progress = 0
        self._events: list[EventRow] = []

    @classmethod
    async def accept(cls, record: Record, shape: Shape) -> "Execution":
        """A new one, durable as PENDING and owned."""
        execution_id = clock.new_id("exec")
        await record.create(execution_id, shape.workflow_id)
        return cls(record, execution_id, shape)

    @property
    def id(self) -> str:
        return self._id

    async def run(self) -> None:
        """From the start to the end."""
        now = _now()
        self._say("execution_started", None, now, {"total_steps": len(self._shape.waves), "started_at": now})
        self._start(0, now)
        await self._commit()
        for number, wave in enumerate(self._shape.waves):
            *items, steps = _portions(wave, number)
            for portion in items:
                await self._commit(portion)
            await self._finish(number, steps)

    async def _finish(self, number: int, steps: list[StepRow]) -> None:
        """Commit the last steps of a wave together with what they lead to."""
        waves = self._shape.waves
        self._progress = (number + 1) * 100 // len(waves)
        if waves[number].items_at_once:
            steps = [*steps, StepRow(f"s{number}_0", "[]", None, None)]
        for step in steps[-1:] if waves[number].items_at_once else steps:
            self._complete(waves[number], step)
        last = number == len(waves) - 1
        if last:
            self._end()
        else:
            self._start(number + 1, _now())
        await self._commit(steps, ended=last)

    def _start(self, number: int, now: float) -> None:
        wave = self._shape.waves[number]
        kind = "log" if wave.fibonacci is None else "function"
        for n in range(1 if wave.items_at_once else wave.size):
            name = f"s{number}_{n}"
            self._say("step_started", name, now, {"step_number": number + 1, "step_name": name, "function": kind})

    def _complete(self, wave: Wave, step: StepRow) -> None:
        now = step.ended or _now()
        if wave.fibonacci is None and not wave.items_at_once:
            self._say("step_log", step.path, now, {"level": "info", "message": "done"})
        self._say(
            "step_completed", step.path, now,
            {"step_name": step.path, "status": "completed", "execution_time_ms": 0.1, "error_message": None,
             "progress": self._progress},
        )  # fmt: skip

    def _end(self) -> None:
        steps = len(self._shape.waves)
        self._say(
            "execution_completed", None, _now(),
            {"status": "completed", "risk_score": None, "requires_approval": False, "total_steps": steps,
             "successful_steps": steps, "progress": 100},
        )  # fmt: skip

    def _say(self, kind: str, step_id: str | None, at: float, data: dict[str, object]) -> None:
        self._events.append(EventRow(self._next_seq, kind, step_id, at, orjson.dumps(data).decode()))
        self._next_seq += 1

    async def _commit(self, steps: Sequence[StepRow] = (), *, ended: bool = False) -> None:
        self._write_no += 1
        events, self._events = self._events, []
        status, output = ("COMPLETED", _LOGGED) if ended else (None, None)
        await self._record.write(
            Write(self._id, EPOCH, self._write_no, self._next_seq, self._progress, status, output, steps, events)
        )


def _portions(wave: Wave, number: int) -> Iterator[list[StepRow]]:
    """The finished steps of a wave, in the portions that are committed."""
    size = wave.items_at_once or wave.size
    for first in range(0, wave.size, size):
        yield [_performed(wave, _path(wave, number, n)) for n in range(first, min(first + size, wave.size))]


def _performed(wave: Wave, path: str) -> StepRow:
    begun = _now()
    output = _LOGGED if wave.fibonacci is None else orjson.dumps(fibonacci(wave.fibonacci)).decode()
    return StepRow(path, output, begun, _now())


def _path(wave: Wave, number: int, n: int) -> str:
    return f"s{number}_0[{n}]" if wave.items_at_once else f"s{number}_{n}"


def _now() -> float:
    return _WALL + perf_counter()
