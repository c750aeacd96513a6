"""The record of the limit: accept and write, each a group commit on a connection of its own."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import asyncpg

from app.bench.limit.group import Group
from app.bench.limit.tables import ADD_WORKFLOW, CREATE, PIN_PLANS, TABLES, WORKER, WRITE
from app.bench.shapes import SHAPES
from app.db.engines import DriverConnection, connect


class StepRow(NamedTuple):
    """A finished step, with its one attempt if it has times."""

    path: str
    output: str
    begun: float | None
    ended: float | None


class EventRow(NamedTuple):
    seq: int
    type: str
    step_id: str | None
    at: float
    data: str


@dataclass(slots=True)
class Write:
    """What one commit says of one execution."""

    execution_id: str
    epoch: int
    write_no: int
    next_seq: int
    progress: int
    status: str | None = None
    output: str | None = None
    steps: Sequence[StepRow] = ()
    events: Sequence[EventRow] = field(default_factory=list)


class LeaseLost(Exception):
    """A write found another owner, epoch or write number."""


class Record:
    """Durable on return, all of it."""

    def __init__(self, create: Any, write: Any) -> None:
        self._create, self._write = create, write
        self._creating = Group[tuple[str, str], None](self._create_all)
        self._writing = Group[Write, frozenset[str]](self._write_all)

    @classmethod
    async def open(cls, url: str, stack: AsyncExitStack) -> "Record":
        """Connected until the stack ends; the tables are made if there are none."""
        connections: list[DriverConnection] = []
        for _ in range(2):
            connections.append(connection := await connect(url, "bench-limit"))
            stack.push_async_callback(connection.close)
        await prepare(connections[0])
        for connection in connections:
            await connection.execute(PIN_PLANS)
        statements = zip(connections, (CREATE, WRITE), strict=True)
        record = cls(*[await connection.prepare(statement) for connection, statement in statements])
        stack.push_async_callback(record.stop)
        return record

    async def stop(self) -> None:
        for group in (self._creating, self._writing):
            await group.stop()

    async def create(self, execution_id: str, workflow_id: str) -> None:
        await self._creating.put((execution_id, workflow_id))

    async def write(self, write: Write) -> None:
        """Raises LeaseLost."""
        if write.execution_id not in await self._writing.put(write):
            raise LeaseLost(write.execution_id)

    async def _create_all(self, batch: Sequence[tuple[str, str]]) -> None:
        await self._create.fetch([item[0] for item in batch], [item[1] for item in batch], WORKER)

    async def _write_all(self, batch: Sequence[Write]) -> frozenset[str]:
        rows: Sequence[asyncpg.Record] = await self._write.fetch(WORKER, *_arrays(batch))
        return frozenset(row["id"] for row in rows)


async def prepare(connection: DriverConnection) -> None:
    """Make the tables, and a workflow for each shape, if they are not there."""
    if await connection.fetchval("SELECT to_regclass('executions')") is None:
        await connection.execute(TABLES)
    for shape in SHAPES.values():
        await connection.execute(ADD_WORKFLOW, shape.workflow_id)


def _arrays(batch: Sequence[Write]) -> list[list[Any]]:
    """The columns of WRITE, appended in place."""
    rows: list[list[Any]] = [[] for _ in range(7)]
    steps: list[list[Any]] = [[] for _ in range(5)]
    events: list[list[Any]] = [[] for _ in range(6)]
    ids, epochs, numbers, statuses, outputs, seqs, progress = rows
    step_ids, paths, results, begun, ended = steps
    event_ids, event_seqs, types, event_steps, times, data = events
    for write in batch:
        ids.append(write.execution_id)
        epochs.append(write.epoch)
        numbers.append(write.write_no)
        statuses.append(write.status)
        outputs.append(write.output)
        seqs.append(write.next_seq)
        progress.append(write.progress)
        for path, output, since, until in write.steps:
            step_ids.append(write.execution_id)
            paths.append(path)
            results.append(output)
            begun.append(since)
            ended.append(until)
        for seq, kind, step_id, at, told in write.events:
            event_ids.append(write.execution_id)
            event_seqs.append(seq)
            types.append(kind)
            event_steps.append(step_id)
            times.append(at)
            data.append(told)
    return [*rows, *steps, *events]
