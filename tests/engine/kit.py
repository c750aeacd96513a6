"""What tests put into an engine: steps they hold in their hand, a sink that outlives processes, a wire that breaks."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from app.db.engines import connect
from app.domain.definition import RetryPolicy
from app.domain.errors import Problem
from app.domain.steps import Done, Effect, Sleep, StepSpec
from app.engine.step_types import StepContext

Run = Callable[[StepContext, Mapping[str, Any]], Awaitable[Done | Sleep]]
ONE_ATTEMPT = RetryPolicy(max_attempts=1)
CONNECTION_LOST = asyncpg.ConnectionDoesNotExistError


class Step:
    """A step type whose attempt is a coroutine function of the test."""

    def __init__(
        self,
        run: Run,
        effect: Effect = Effect.IDEMPOTENT,
        retry: RetryPolicy = ONE_ATTEMPT,
        timeout: float = 60.0,
    ) -> None:
        self._run = run
        self.spec = StepSpec(
            type="test",
            title="Test",
            description="A step of a test.",
            category="test",
            icon="flask",
            effect=effect,
            config_schema={"type": "object"},
            output_schema={},
            retry=retry,
            timeout=timeout,
        )

    def check(self, config: Mapping[str, Any]) -> list[Problem]:
        return []

    def missing_setup(self, config: Mapping[str, Any]) -> list[Problem]:
        return []

    async def run(self, context: StepContext, config: Mapping[str, Any]) -> Done | Sleep:
        return await self._run(context, config)


def returning(value: Any = None, effect: Effect = Effect.IDEMPOTENT) -> Step:
    """A step that ends at once."""

    async def run(context: StepContext, config: Mapping[str, Any]) -> Done:
        return Done(value)

    return Step(run, effect)


@dataclass
class Gate:
    """A step that says when it is inside and stays until it is let go; what it sees is kept."""

    effect: Effect = Effect.IDEMPOTENT
    output: Any = None
    inside: asyncio.Event = field(default_factory=asyncio.Event)
    free: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    contexts: list[StepContext] = field(default_factory=list)

    @property
    def step(self) -> Step:
        return Step(self._run, self.effect)

    async def _run(self, context: StepContext, config: Mapping[str, Any]) -> Done:
        self.contexts.append(context)
        self.inside.set()
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Done(self.output)


@dataclass(frozen=True)
class Sink:
    """Effects as the world saw them: one durable line for each, written by any process."""

    path: Path

    def step(self, effect: Effect = Effect.IDEMPOTENT, then: Run | None = None) -> Step:
        """A step that leaves a line, and then does what `then` does."""

        async def run(context: StepContext, config: Mapping[str, Any]) -> Done | Sleep:
            self.write(context)
            return await then(context, config) if then else Done(context.step_id)

        return Step(run, effect)

    def fast(self, then: Run, effect: Effect = Effect.IDEMPOTENT) -> Step:
        """As `step`, for thousands of lines: they outlive the process but not the machine."""

        async def run(context: StepContext, config: Mapping[str, Any]) -> Done | Sleep:
            self.write(context, durable=False)
            return await then(context, config)

        return Step(run, effect)

    def write(self, context: StepContext, *, durable: bool = True) -> None:
        line = {
            "execution": context.execution_id,
            "step": context.step_id,
            "attempt": context.attempt,
            "key": context.idempotency_key,
            "pid": os.getpid(),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            if durable:
                os.fsync(file.fileno())

    def lines(self, step: str | None = None) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        found = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [line for line in found if step in (None, line["step"])]


class Wire:
    """A way to the database that loses questions or answers, or holds statements back, when a test says so."""

    def __init__(self, url: str, application_name: str = "test-engine") -> None:
        self._url = url
        self._name = application_name
        self._faults: list[Fault] = []
        self.sent: list[str] = []
        self.opened = 0

    async def connect(self) -> "Connection":
        self.opened += 1
        return Connection(await connect(self._url, self._name), self)

    def lose(
        self, sql: str, *, after: bool, times: int = 1, skip: int = 0, error: type[Exception] = CONNECTION_LOST
    ) -> "Fault":
        """Break the connection at `times` uses of a statement that begins so, `after` or before the database does it.

        The first `skip` uses are let through. With `error` it is that which happens in place of a lost connection.
        """
        fault = Fault(sql, after, times, skip, error=error)
        self._faults.append(fault)
        return fault

    def hold(self, sql: str) -> "Fault":
        """Let the next use of a statement that begins so wait, before it is sent, until the fault is `released`."""
        fault = Fault(sql, after=False, times=1, skip=0, holds=True)
        self._faults.append(fault)
        return fault

    async def meet(self, sql: str, *, after: bool) -> None:
        for fault in self._faults:
            if sql.startswith(fault.sql) and fault.after is after and fault.times > 0:
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                fault.hits += 1
                fault.hit.set()
                if not fault.holds:
                    raise fault.error("a fault of the test")
                await fault.released.wait()


@dataclass(eq=False)
class Fault:
    sql: str
    after: bool
    times: int
    skip: int
    holds: bool = False
    error: type[Exception] = CONNECTION_LOST
    hits: int = 0
    hit: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)


class Connection:
    """An asyncpg connection on a wire."""

    def __init__(self, connection: Any, wire: Wire) -> None:
        self._connection = connection
        self._wire = wire

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def prepare(self, sql: str) -> "Statement":
        return Statement(await self._connection.prepare(sql), sql, self._wire)


class Statement:
    def __init__(self, statement: Any, sql: str, wire: Wire) -> None:
        self._statement = statement
        self._sql = sql
        self._wire = wire

    async def fetch(self, *arguments: Any) -> Any:
        await self._wire.meet(self._sql, after=False)
        self._wire.sent.append(self._sql)
        rows = await self._statement.fetch(*arguments)
        await self._wire.meet(self._sql, after=True)
        return rows
