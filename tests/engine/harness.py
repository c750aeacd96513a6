"""A process of the engine in a test: real recorder, queue, leases and steps on a real database, without HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from app import clock
from app.auth.sealing import MasterKeys
from app.db.budget_book import PostgresBudgetBook
from app.db.doorbell import PostgresDoorbell
from app.db.earlier_runs import PostgresEarlierRuns
from app.db.engines import connect
from app.db.event_log import PostgresEventLog
from app.db.link import Connect
from app.db.queue import Queue
from app.db.recorder import GroupRecorder
from app.db.result_cache import PostgresResultCache
from app.db.secret_vault import PostgresSecretVault
from app.db.tenancy import TenantReads
from app.db.urls import API, ENGINE
from app.db.workers import Workers
from app.db.workflow_source import WorkflowSource
from app.domain.errors import Problem
from app.domain.jsontext import decode, encode
from app.domain.scrubbing import Scrubber
from app.domain.steps import StepSpec
from app.engine.attempt import OutputRules
from app.engine.definitions import Definitions
from app.engine.orchestrator import EngineSettings, Orchestrator
from app.engine.ports import Accepted, NewExecution, WorkerRegistry
from app.engine.step_types import StepType
from app.engine.transition import queued_event_data
from app.services.secrets import unsealed
from app.settings import Settings
from app.steps.registry import default_registry
from app.streaming.hub import Hub
from app.streaming.poller import Poller
from tests.database import Database
from tests.streaming.ends import until_terminal

ORG = "org_a"
SECRET = "s3cr3t-value"
SCAN_SECONDS = 0.1
KEYS = MasterKeys([b"master-secret-of-the-tests-" * 2])


class Catalog:
    """The shipped step types and those of a test."""

    def __init__(self, extra: Mapping[str, StepType]) -> None:
        self._shipped = default_registry(Settings(_env_file=None))
        self._extra = extra

    def __getitem__(self, name: str) -> StepType:
        return self._extra.get(name) or self._shipped[name]

    def spec(self, step_type: str) -> StepSpec | None:
        return self._extra[step_type].spec if step_type in self._extra else self._shipped.spec(step_type)

    def check(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        return [] if step_type in self._extra else self._shipped.check(step_type, config)

    def missing_setup(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        return []

    async def aclose(self) -> None:
        await self._shipped.aclose()


@dataclass(eq=False)
class Engine:
    """One engine process; several may share a database."""

    database: Database
    orchestrator: Orchestrator
    recorder: GroupRecorder
    hub: Hub
    log: PostgresEventLog
    doorbell: PostgresDoorbell
    alive: bool = True

    async def start(self, workflow_id: str, value: Any = None, **changes: Any) -> str:
        """Accept an execution; its id."""
        new = new_execution(workflow_id, value, **changes)
        assert isinstance(await self.orchestrator.accept(new), Accepted)
        return new.id

    async def submit(self, *steps: dict[str, Any], value: Any = None, **document: Any) -> str:
        """Save a workflow of these steps and start it; the execution's id."""
        return await self.start(await save_workflow(self.database, *steps, **document), value)

    async def finish(self, execution_id: str, seconds: float = 20) -> dict[str, Any]:
        """Wait for the end; the row."""
        assert await until_terminal(self.hub, self.log, ORG, execution_id, seconds), await self.row(execution_id)
        return await self.row(execution_id)

    async def run(self, *steps: dict[str, Any], value: Any = None, **document: Any) -> dict[str, Any]:
        """Run a workflow of these steps to its end; the row."""
        return await self.finish(await self.submit(*steps, value=value, **document))

    async def row(self, execution_id: str) -> dict[str, Any]:
        return dict((await self.database.fetch("SELECT * FROM executions WHERE id = $1", execution_id))[0])

    async def status(self, execution_id: str) -> str:
        return str((await self.row(execution_id))["status"])

    async def until(self, execution_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until the row shows one of the statuses; the row."""

        async def reached() -> dict[str, Any] | None:
            row = await self.row(execution_id)
            return row if row["status"] in statuses else None

        row: dict[str, Any] = await eventually(reached)
        return row

    async def steps(self, execution_id: str) -> dict[str, dict[str, Any]]:
        rows = await self.database.fetch("SELECT * FROM execution_steps WHERE execution_id = $1", execution_id)
        return {row["path"]: dict(row) for row in rows}

    async def step_statuses(self, execution_id: str) -> dict[str, str]:
        return {path: row["status"] for path, row in (await self.steps(execution_id)).items()}

    async def attempts(self, execution_id: str, path: str) -> list[str]:
        rows = await self.database.fetch(
            "SELECT status FROM step_attempts WHERE execution_id = $1 AND path = $2 ORDER BY attempt",
            execution_id, path,
        )  # fmt: skip
        return [row["status"] for row in rows]

    async def events(self, execution_id: str, *kinds: str) -> list[dict[str, Any]]:
        rows = await self.database.fetch(
            "SELECT seq, type, step_id, data, timestamp FROM execution_events WHERE execution_id = $1 ORDER BY seq",
            execution_id,
        )
        return [dict(row) | {"data": decode(row["data"])} for row in rows if not kinds or row["type"] in kinds]

    async def event_types(self, execution_id: str) -> list[str]:
        return [event["type"] for event in await self.events(execution_id)]

    async def cancel(self, execution_id: str, reason: str = "stop", *, ring: bool = True) -> None:
        await cancel(self.database, execution_id, reason, ring=ring)

    async def send(
        self, execution_id: str, kind: str, payload: Any = None, *, topic: str | None = None, user: str = "user_2"
    ) -> None:
        """Put mail into an execution's inbox and ring for it, as the API does."""
        await self.database.execute(
            "INSERT INTO execution_inbox (id, org_id, execution_id, kind, topic, payload, user_id) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7)",
            clock.new_id("mail"), ORG, execution_id, kind, topic, encode({} if payload is None else payload), user,
        )  # fmt: skip
        await self.database.execute("SELECT pg_notify('stepstream_inbox', $1)", f":{execution_id}")

    async def until_reason(self, execution_id: str, reason: str) -> dict[str, Any]:
        """Wait until the row is in its status for this reason; the row."""

        async def reached() -> dict[str, Any] | None:
            row = await self.row(execution_id)
            return row if row["status_reason"] == reason else None

        row: dict[str, Any] = await eventually(reached)
        return row

    async def until_read(self, execution_id: str) -> None:
        """Wait until the owner has taken note of all mail."""
        unread = "SELECT id FROM execution_inbox WHERE execution_id = $1 AND applied_at IS NULL"

        async def read() -> bool | None:
            return not await self.database.fetch(unread, execution_id) or None

        await eventually(read)

    async def children(self, execution_id: str) -> list[str]:
        """Ids of the executions that this one started."""
        rows = await self.database.fetch("SELECT id FROM executions WHERE parent_id = $1 ORDER BY id", execution_id)
        return [row["id"] for row in rows]

    async def expire(self) -> None:
        """Let the lease of this process run out, as the database sees it."""
        await self.database.execute(
            "UPDATE workers SET lease_until = now() - interval '1 second' WHERE id = $1",
            self.orchestrator._leases.worker_id,
        )

    async def crash(self) -> None:
        """End like a killed process: nothing more is written, nothing is given back; the lease runs out."""
        self.alive = False
        orchestrator = self.orchestrator
        for service in (*orchestrator._services, orchestrator._leases._service):
            if service._task is not None:
                service._task.cancel()
        for tasks in (orchestrator._abandon("crashed"), [commit._task for commit in self._commits()]):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self.expire()

    def _commits(self) -> list[Any]:
        return [self.recorder._accepting, *(writer.commits for writer in self.recorder._writers)]


async def cancel(
    database: Database, execution_id: str, reason: str = "stop", *, payload: Any = ..., ring: bool = True
) -> None:
    """Ask for an end, as the API does."""
    text = encode({"reason": reason} if payload is ... else payload)
    await database.execute(
        "INSERT INTO execution_inbox (id, org_id, execution_id, kind, payload, user_id) "
        "VALUES ($1, $2, $3, 'cancel', $4, 'user_org_a')",
        clock.new_id("mail"), ORG, execution_id, text,
    )  # fmt: skip
    if ring:
        await database.execute("SELECT pg_notify('stepstream_inbox', $1)", f":{execution_id}")


def new_execution(workflow_id: str, value: Any = None, **changes: Any) -> NewExecution:
    fields: dict[str, Any] = {
        "id": clock.new_id("exec"),
        "org_id": ORG,
        "workflow_id": workflow_id,
        "workflow_version": 1,
        "user_id": f"user_{ORG}",
        "input_text": encode(value),
        "labels_text": "{}",
        "priority": 0,
        "ip_address": "192.0.2.1",
        "user_agent": "test",
        "request_id": "req_1",
        "queued_event_data": queued_event_data(workflow_id, 1),
        "audit_id": clock.new_id("audit"),
    }
    return NewExecution(**{**fields, **changes})


async def save_workflow(database: Database, *steps: dict[str, Any], **document: Any) -> str:
    """A new published workflow of these steps; its id."""
    workflow_id = clock.new_id("wf")
    await database.execute(
        "INSERT INTO workflows (org_id, id, name, latest_version, published_version) VALUES ($1, $2, $2, 1, 1)",
        ORG, workflow_id,
    )  # fmt: skip
    await database.execute(
        "INSERT INTO workflow_versions (org_id, workflow_id, version, definition) VALUES ($1, $2, 1, $3)",
        ORG, workflow_id, encode({"name": workflow_id, "steps": list(steps), **document}),
    )  # fmt: skip
    return workflow_id


@asynccontextmanager
async def engine(
    database: Database,
    *,
    types: Mapping[str, StepType] | None = None,
    wire: Connect | None = None,
    registry: Callable[[Workers], WorkerRegistry] = lambda workers: workers,
    doorbell_works: bool = True,
    drain_budget: float = 5.0,
    cancel_grace: float = 5.0,
    lease_ttl: float = 30.0,
    max_running: int = 1000,
    max_running_per_user: int = 0,
    max_output: int = 1 << 20,
) -> AsyncIterator[Engine]:
    """A running engine. `wire` replaces its way to the database, `registry` what stands before its lease."""
    async with AsyncExitStack() as stack:
        catalog = Catalog(types or {})
        stack.push_async_callback(catalog.aclose)
        dedicated = wire or partial(connect, database.role_url(ENGINE), "test-engine")
        reads = TenantReads(partial(connect, database.role_url(API), "test-reads"))
        stack.push_async_callback(reads.close)
        hub, sender = Hub(), clock.new_id("process")
        log = PostgresEventLog(reads, dedicated)
        source, workers = WorkflowSource(dedicated), Workers(dedicated)
        queue = Queue(dedicated, max_running_per_user=max_running_per_user)
        cache = PostgresResultCache(dedicated)
        stack.push_async_callback(cache.close)
        book, earlier = PostgresBudgetBook(dedicated), PostgresEarlierRuns(dedicated)
        stack.push_async_callback(earlier.close)
        stack.push_async_callback(book.close)
        vault = PostgresSecretVault(dedicated, partial(unsealed, KEYS))
        stack.push_async_callback(vault.close)
        for closable in (source, log, queue, workers):
            stack.push_async_callback(closable.close)
        doorbell = PostgresDoorbell(dedicated, sender)
        doorbell.on_ring("events", hub.moved)
        if doorbell_works:
            doorbell.service.start()
        stack.push_async_callback(doorbell.close)
        poller = Poller(hub, log, SCAN_SECONDS)
        poller.service.start()
        stack.push_async_callback(poller.service.stop)
        recorder = GroupRecorder(dedicated, hub, sender=sender)
        recorder.start()
        stack.push_async_callback(recorder.stop)
        orchestrator = Orchestrator(
            queue=queue,
            registry=registry(workers),
            recorder=recorder,
            definitions=Definitions(source, catalog),
            source=source,
            earlier=earlier,
            cache=cache,
            book=book,
            vault=vault,
            step_type=catalog.__getitem__,
            doorbell=doorbell,
            settings=EngineSettings(
                lease_ttl=lease_ttl,
                scan_interval=SCAN_SECONDS,
                max_running=max_running,
                max_recoveries=5,
                drain_budget=drain_budget,
                cancel_grace=cancel_grace,
                output_rules=OutputRules(max_output, Scrubber((SECRET,))),
            ),
        )
        await orchestrator.start()
        running = Engine(database, orchestrator, recorder, hub, log, doorbell)
        try:
            yield running
        finally:
            if running.alive:
                await orchestrator.drain()


async def eventually(condition: Any, seconds: float = 10) -> Any:
    """Ask until the answer is true; for facts that only the database knows."""
    async with asyncio.timeout(seconds):
        while not (value := await condition()):
            await asyncio.sleep(0)
        return value
