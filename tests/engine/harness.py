"""A process of the engine in a test: real recorder, queue, leases and steps on a real database, without HTTP."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from app import clock
from app.db.doorbell import PostgresDoorbell
from app.db.engines import api_engine, connect
from app.db.event_log import PostgresEventLog
from app.db.queue import Queue
from app.db.recorder import GroupRecorder
from app.db.tenancy import Tenancy
from app.db.urls import API, ENGINE
from app.db.workers import Workers
from app.db.workflow_source import WorkflowSource
from app.domain.errors import Problem
from app.domain.jsontext import encode
from app.domain.steps import StepSpec
from app.engine.attempt import OutputRules
from app.engine.definitions import Definitions
from app.engine.orchestrator import EngineSettings, Orchestrator
from app.engine.ports import Accepted, NewExecution, Recorder
from app.engine.step_types import StepType
from app.engine.transition import queued_event_data
from app.settings import Settings
from app.steps.registry import default_registry
from app.streaming.hub import Hub
from app.streaming.waiting import until_terminal
from tests.database import Database

ORG = "org_a"


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


@dataclass
class Engine:
    """One engine process; several may share a database."""

    database: Database
    orchestrator: Orchestrator
    recorder: GroupRecorder
    hub: Hub
    log: PostgresEventLog
    ids: list[str] = field(default_factory=list)

    async def save(self, document: dict[str, Any], workflow_id: str = "wf_test") -> str:
        await save_workflow(self.database, document, workflow_id)
        return workflow_id

    async def start(self, workflow_id: str = "wf_test", value: Any = None) -> str:
        new = new_execution(workflow_id, value)
        assert isinstance(await self.recorder.create(new), Accepted)
        self.ids.append(new.id)
        self.orchestrator.nudge()
        return new.id

    async def finish(self, execution_id: str, seconds: float = 20) -> dict[str, Any]:
        """Wait for the end; the row."""
        assert await until_terminal(self.hub, self.log, ORG, execution_id, seconds), await self.row(execution_id)
        return await self.row(execution_id)

    async def run(self, document: dict[str, Any], value: Any = None) -> dict[str, Any]:
        workflow_id = await self.save(document, clock.new_id("wf"))
        return await self.finish(await self.start(workflow_id, value))

    async def row(self, execution_id: str) -> dict[str, Any]:
        return dict((await self.database.fetch("SELECT * FROM executions WHERE id = $1", execution_id))[0])

    async def events(self, execution_id: str) -> list[str]:
        rows = await self.database.fetch(
            "SELECT type FROM execution_events WHERE execution_id = $1 ORDER BY seq", execution_id
        )
        return [row["type"] for row in rows]

    async def cancel(self, execution_id: str, reason: str = "stop") -> None:
        await self.database.execute(
            "INSERT INTO execution_inbox (id, org_id, execution_id, kind, payload, user_id) "
            "VALUES ($1, $2, $3, 'cancel', $4, 'user_org_a')",
            clock.new_id("mail"), ORG, execution_id, encode({"reason": reason}),
        )  # fmt: skip
        await self.database.execute("SELECT pg_notify('stepstream_inbox', $1)", f":{execution_id}")


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


async def save_workflow(database: Database, document: dict[str, Any], workflow_id: str) -> None:
    await database.execute(
        "INSERT INTO workflows (org_id, id, name, latest_version, published_version) VALUES ($1, $2, $2, 1, 1) "
        "ON CONFLICT DO NOTHING",
        ORG, workflow_id,
    )  # fmt: skip
    await database.execute(
        "INSERT INTO workflow_versions (org_id, workflow_id, version, definition) VALUES ($1, $2, 1, $3) "
        "ON CONFLICT DO NOTHING",
        ORG, workflow_id, encode({"name": workflow_id, **document}),
    )  # fmt: skip


@asynccontextmanager
async def engine(
    database: Database,
    *,
    types: Mapping[str, StepType] | None = None,
    wrap: Any = None,
    drain_budget: float = 5.0,
    cancel_grace: float = 5.0,
    lease_ttl: float = 30.0,
) -> AsyncIterator[Engine]:
    """A running engine; `wrap` may put something between it and the recorder."""
    catalog = Catalog(types or {})
    dedicated = partial(connect, database.role_url(ENGINE), "test-engine")
    pool = api_engine(database.role_url(API), 4)
    hub, sender = Hub(), clock.new_id("process")
    log = PostgresEventLog(Tenancy(pool), dedicated)
    source, queue, workers = WorkflowSource(dedicated), Queue(dedicated), Workers(dedicated)
    doorbell = PostgresDoorbell(dedicated, sender)
    doorbell.on_ring("events", hub.moved)
    recorder = GroupRecorder(dedicated, hub, sender=sender)
    recorder.start()
    doorbell.service.start()
    used: Recorder = wrap(recorder) if wrap else recorder
    orchestrator = Orchestrator(
        queue=queue,
        registry=workers,
        recorder=used,
        definitions=Definitions(source, catalog),
        step_type=catalog.__getitem__,
        doorbell=doorbell,
        settings=EngineSettings(
            lease_ttl=lease_ttl,
            scan_interval=0.2,
            max_running=1000,
            max_recoveries=5,
            drain_budget=drain_budget,
            cancel_grace=cancel_grace,
            output_rules=OutputRules(1 << 20, ("s3cr3t-value",)),
        ),
    )
    await orchestrator.start()
    try:
        yield Engine(database, orchestrator, recorder, hub, log)
    finally:
        await orchestrator.drain()
        await recorder.stop()
        await doorbell.close()
        for closable in (source, log, queue, workers):
            await closable.close()
        await pool.dispose()
        await catalog.aclose()


async def eventually(condition: Any, seconds: float = 10) -> Any:
    """Ask until the answer is true; for facts that only the database knows."""
    async with asyncio.timeout(seconds):
        while not (value := await condition()):
            await asyncio.sleep(0)
        return value
