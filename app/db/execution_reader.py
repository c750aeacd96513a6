"""Reading executions by id, for everybody who asks at the same time at once.

Runs that end in one commit have as many clients waiting for them, who then all read. Those of one organisation who come
while it is asked for others are asked for together next, so that everybody sees what was committed before he came.
"""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, TypeVar

import asyncpg
from sqlalchemy import ColumnElement

from app.db.queries.executions import WHOLE, Row
from app.db.tables import execution_steps, step_attempts
from app.db.tenancy import TenantReads
from app.domain.jsontext import decode

AT_ONCE = 2
"""Questions under way for one organisation."""
TOGETHER = 32
"""Executions in one question, whose payloads are all in memory with its answer."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _of_these(columns: Iterable[ColumnElement[Any]], rest: str) -> str:
    return " ".join(("SELECT", ", ".join(f"e.{column.key}" for column in columns), "FROM", rest))


ROWS = _of_these(WHOLE, "executions e WHERE e.org_id = bound.org_id AND e.id = ANY($2::text[])")
STEPS = _of_these(
    execution_steps.c,
    "execution_steps e"
    " WHERE e.org_id = bound.org_id AND e.execution_id = ANY($2::text[]) AND strpos(e.path, '[') = 0"
    " ORDER BY e.execution_id, e.step_number, e.path",
)
ATTEMPTS = _of_these(
    step_attempts.c,
    "step_attempts e"
    " WHERE e.org_id = bound.org_id AND e.execution_id = ANY($2::text[]) AND strpos(e.path, '[') = 0"
    " ORDER BY e.execution_id, e.path, e.attempt",
)


@dataclass(frozen=True, slots=True)
class ExecutionRecord:
    """An execution with its steps in topological order and their ended attempts; items of steps are left out."""

    row: Row
    steps: Sequence[Row]
    attempts: Sequence[Row]


class ExecutionReader:
    """Executions of an organisation, within its scope."""

    def __init__(self, reads: TenantReads) -> None:
        self._reads = reads
        self._rows = _Together(self._read_rows)
        self._records = _Together(self._read_records)

    async def row(self, org_id: str, execution_id: str) -> Row | None:
        """One execution with everything but where its request came from; None if there is none."""
        return await self._rows.get(org_id, execution_id) if _ID.fullmatch(execution_id) else None

    async def record(self, org_id: str, execution_id: str) -> ExecutionRecord | None:
        """One execution with its steps and attempts; None if there is none."""
        return await self._records.get(org_id, execution_id) if _ID.fullmatch(execution_id) else None

    async def _read_rows(self, org_id: str, ids: Sequence[str]) -> dict[str, Row]:
        found = await self._reads.fetch(org_id, ROWS, ids)
        return {row["id"]: dict(row) | {"labels": decode(row["labels"])} for row in found}

    async def _read_records(self, org_id: str, ids: Sequence[str]) -> dict[str, ExecutionRecord]:
        rows = await self._read_rows(org_id, ids)
        steps = _by_execution(await self._reads.fetch(org_id, STEPS, ids))
        attempts = _by_execution(await self._reads.fetch(org_id, ATTEMPTS, ids))
        return {
            id_: ExecutionRecord(row, steps.get(id_, ()), attempts.get(id_, ())) for id_, row in rows.items()
        }  # fmt: skip


def _by_execution(rows: Sequence[asyncpg.Record]) -> dict[str, Sequence[Row]]:
    return {id_: [dict(row) for row in found] for id_, found in groupby(rows, lambda row: str(row["execution_id"]))}


Answer = TypeVar("Answer")


class _Question(Generic[Answer]):
    """What is asked for together, and the one answer that all who asked wait for."""

    def __init__(self) -> None:
        self.ids: dict[str, None] = {}
        self.answer: asyncio.Future[Mapping[str, Answer]] = asyncio.get_running_loop().create_future()


class _Together(Generic[Answer]):
    """`ask` answers for some ids of an organisation; ids without an answer do not exist."""

    def __init__(self, ask: Callable[[str, Sequence[str]], Awaitable[Mapping[str, Answer]]]) -> None:
        self._ask = ask
        self._gathering: dict[str, deque[_Question[Answer]]] = {}
        self._asking: dict[str, set[asyncio.Task[None]]] = {}

    async def get(self, org_id: str, id_: str) -> Answer | None:
        question = self._open(org_id)
        question.ids[id_] = None
        return (await asyncio.shield(question.answer)).get(id_)

    def _open(self, org_id: str) -> _Question[Answer]:
        """The question that is not asked yet; it is once what is ready in this turn of the loop has joined it."""
        gathering = self._gathering.setdefault(org_id, deque())
        if not gathering or len(gathering[-1].ids) >= TOGETHER:
            gathering.append(_Question())
            asking = self._asking.setdefault(org_id, set())
            if len(asking) < AT_ONCE:
                asking.add(asyncio.create_task(self._ask_all(org_id), name="execution-reader"))
        return gathering[-1]

    async def _ask_all(self, org_id: str) -> None:
        try:
            for question in self._questions(org_id):
                await self._ask_one(org_id, question)
        finally:
            self._done(org_id)

    def _questions(self, org_id: str) -> Iterator[_Question[Answer]]:
        gathering = self._gathering[org_id]
        while gathering:
            yield gathering.popleft()

    async def _ask_one(self, org_id: str, question: _Question[Answer]) -> None:
        try:
            found = await self._ask(org_id, list(question.ids))
        except asyncio.CancelledError:
            question.answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            question.answer.set_exception(error)
            question.answer.exception()  # retrieved: nobody may be waiting any more
        else:
            question.answer.set_result(found)

    def _done(self, org_id: str) -> None:
        asking = self._asking[org_id]
        task = asyncio.current_task()
        if task is not None:
            asking.discard(task)
        if not asking and not self._gathering[org_id]:
            del self._asking[org_id], self._gathering[org_id]
