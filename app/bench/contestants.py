"""Whoever carries out runs: the product and the limit, each over HTTP and without."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.bench.children import Child
from app.bench.figures import Load
from app.bench.http_client import HttpClient
from app.bench.ledger import Ledger
from app.bench.load import for_seconds, one_by_one
from app.bench.shapes import Shape
from app.bench.usage import used

BATCH = 16
"""Runs that one request starts, where one starts several."""

_COMPLETED = b'"status":"COMPLETED"'


class RunFailed(Exception):
    """A run did not complete."""


class Contestant(Protocol):
    """Carries out runs of shapes."""

    name: str
    ledger: Ledger
    pids: Sequence[int]

    async def for_seconds(self, shape: Shape, at_once: int, seconds: float) -> Load: ...

    async def one_by_one(self, shape: Shape, times: int) -> Load: ...


class OverHttp(ABC):
    """Runs that are asked for by this process, by HTTP, a `batch` with each request."""

    batch = 1

    def __init__(self, name: str, ledger: Ledger, pids: Sequence[int], client: HttpClient) -> None:
        self.name = name
        self.ledger = ledger
        self.pids = pids
        self.client = client

    async def for_seconds(self, shape: Shape, at_once: int, seconds: float) -> Load:
        return await for_seconds(self.run_one, shape, at_once, seconds, self.batch)

    async def one_by_one(self, shape: Shape, times: int) -> Load:
        return await one_by_one(self.run_one, shape, times, self.batch)

    @abstractmethod
    async def run_one(self, shape: Shape) -> None:
        """Ask for a run, or a batch of them, and wait for the end; raises RunFailed."""


class Rest(OverHttp):
    """The real server; one request starts a run and is answered at its end."""

    async def run_one(self, shape: Shape) -> None:
        body = f'{{"workflow_id":"{shape.workflow_id}"}}'.encode()
        status, answer = await self.client.ask("POST", "/api/v1/executions", body, "prefer: wait=60\r\n")
        if status != 200 or _COMPLETED not in answer:
            raise RunFailed(f"A run of {shape.name} over REST: {status} {answer[:500].decode(errors='replace')}")


class RestByBatches(OverHttp):
    """The real server; one request starts a batch of runs and is answered when all have ended."""

    batch = BATCH

    async def run_one(self, shape: Shape) -> None:
        wanted = b",".join([f'{{"workflow_id":"{shape.workflow_id}"}}'.encode()] * self.batch)
        body = b'{"executions":[%s]}' % wanted
        status, answer = await self.client.ask("POST", "/api/v1/executions/batch", body, "prefer: wait=60\r\n")
        if status != 200 or answer.count(_COMPLETED) != self.batch:
            raise RunFailed(f"A batch of {shape.name} over REST: {status} {answer[:500].decode(errors='replace')}")


class LimitOverHttp(OverHttp):
    """The limit behind a bare POST and a GET that waits."""

    async def run_one(self, shape: Shape) -> None:
        status, answer = await self.client.ask(
            "POST", "/executions", f'{{"workflow_id":"{shape.workflow_id}"}}'.encode()
        )
        if status == 201:
            execution_id = answer[answer.index(b"exec_") :].partition(b'"')[0].decode()
            status, answer = await self.client.ask("GET", f"/executions/{execution_id}/wait")
        if status != 200 or _COMPLETED not in answer:
            raise RunFailed(f"A run of {shape.name} by the limit: {status} {answer[:500].decode(errors='replace')}")


class InProcess:
    """A program that runs on its own what it is ordered to."""

    def __init__(self, name: str, ledger: Ledger, child: Child) -> None:
        self.name = name
        self.ledger = ledger
        self.pids: Sequence[int] = [child.pid]
        self._child = child

    async def for_seconds(self, shape: Shape, at_once: int, seconds: float) -> Load:
        return Load(**await self._child.order(shape=shape.name, at_once=at_once, seconds=seconds))

    async def one_by_one(self, shape: Shape, times: int) -> Load:
        return Load(**await self._child.order(shape=shape.name, times=times))


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of a contestant came to, its rows counted."""

    load: Load
    figures: dict[str, Any]


class Referee:
    """Lets contestants have their turns, measures what they cost and counts the rows they leave."""

    def __init__(self, others: Mapping[str, Sequence[int]]) -> None:
        self._others = others

    async def throughput(self, contestant: Contestant, shape: Shape, at_once: int, seconds: float) -> Turn:
        mark = await contestant.ledger.mark()
        async with used({"app": contestant.pids, **self._others}) as usage:
            load = await contestant.for_seconds(shape, at_once, seconds)
        return await self._judged(contestant, shape, load, mark, usage)

    async def latency(self, contestant: Contestant, shape: Shape, times: int) -> Turn:
        mark = await contestant.ledger.mark()
        async with used({"app": contestant.pids, **self._others}) as usage:
            load = await contestant.one_by_one(shape, times)
        return await self._judged(contestant, shape, load, mark, usage)

    async def _judged(self, contestant: Contestant, shape: Shape, load: Load, mark: Any, usage: Any) -> Turn:
        rows = await contestant.ledger.check(mark, shape, load.completed)
        return Turn(load, {**load.figures(), **usage.figures(load.completed), "rows": rows})
