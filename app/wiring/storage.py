"""Everything that talks to the database, made and started."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from app import clock, metrics
from app.auth.sealing import MasterKeys
from app.db.audit_sealer import AuditSealer
from app.db.budget_book import PostgresBudgetBook
from app.db.doorbell import PostgresDoorbell
from app.db.earlier_runs import PostgresEarlierRuns
from app.db.engines import api_engine, auth_engine, close_pool, connect
from app.db.event_log import PostgresEventLog
from app.db.probe import Probe
from app.db.queue import Queue
from app.db.quotas import StartQuota
from app.db.recorder import GroupRecorder
from app.db.result_cache import PostgresResultCache
from app.db.secret_vault import PostgresSecretVault
from app.db.tenancy import Tenancy, TenantReads
from app.db.urls import API, AUTH, ENGINE
from app.db.workers import Workers
from app.db.workflow_source import WorkflowSource
from app.engine.orchestrator import EngineSettings
from app.services.secrets import unsealed
from app.settings import Settings
from app.streaming.hub import Hub
from app.streaming.poller import Poller


@dataclass(frozen=True, slots=True)
class Storage:
    """Everything that talks to the database, each on connections of its own kind."""

    api_pool: AsyncEngine
    auth_pool: AsyncEngine
    tenancy: Tenancy
    reads: TenantReads
    source: WorkflowSource
    earlier: PostgresEarlierRuns
    cache: PostgresResultCache
    book: PostgresBudgetBook
    vault: PostgresSecretVault
    log: PostgresEventLog
    queue: Queue
    workers: Workers
    hub: Hub
    doorbell: PostgresDoorbell
    recorder: GroupRecorder
    quota: StartQuota
    probe: Probe


async def open_storage(
    settings: Settings, engine: EngineSettings, urls: dict[str, str], stack: AsyncExitStack
) -> Storage:
    """Open the pools, the recorder, the doorbell and the poller."""
    sender = clock.new_id("process")
    dedicated = partial(connect, urls[ENGINE], "stepstream-engine")
    api_pool, auth_pool = api_engine(urls[API], settings.api_pool_size), auth_engine(urls[AUTH])
    tenancy, hub = Tenancy(api_pool), Hub()
    reads = TenantReads(partial(connect, urls[API], "stepstream-reads"))
    storage = Storage(
        api_pool=api_pool,
        auth_pool=auth_pool,
        tenancy=tenancy,
        reads=reads,
        source=WorkflowSource(dedicated),
        earlier=PostgresEarlierRuns(dedicated),
        cache=PostgresResultCache(dedicated),
        book=PostgresBudgetBook(dedicated),
        vault=PostgresSecretVault(dedicated, partial(unsealed, MasterKeys(settings.master_secrets))),
        log=PostgresEventLog(reads, dedicated),
        queue=Queue(
            dedicated,
            max_running_per_user=settings.max_running_per_user,
            max_running_per_org=settings.max_running_per_org,
            suspect_from=engine.suspect_from,
        ),
        workers=Workers(partial(connect, urls[ENGINE], "stepstream-lease")),
        hub=hub,
        doorbell=PostgresDoorbell(partial(connect, urls[ENGINE], "stepstream-doorbell"), sender),
        recorder=GroupRecorder(dedicated, hub, sender=sender, writers=settings.writers, on_flush=metrics.observe_flush),
        quota=StartQuota(dedicated, settings.max_started_per_minute),
        probe=Probe(partial(connect, urls[API], "stepstream-health")),
    )
    closers: tuple[Callable[[], Awaitable[None]], ...] = (
        partial(close_pool, api_pool),
        partial(close_pool, auth_pool),
        storage.reads.close,
        storage.source.close,
        storage.log.close,
        storage.queue.close,
        storage.quota.close,
        storage.probe.close,
        storage.earlier.close,
        storage.cache.close,
        storage.book.close,
        storage.vault.close,
        storage.workers.close,
    )
    stack.push_async_callback(_all_at_once, closers)
    _start(storage, settings, stack)
    sealer = AuditSealer(partial(connect, urls[ENGINE], "stepstream-sealer"))
    sealer.service.start()
    stack.push_async_callback(sealer.close)
    return storage


def _start(storage: Storage, settings: Settings, stack: AsyncExitStack) -> None:
    storage.doorbell.on_ring("events", storage.hub.moved)
    poller = Poller(storage.hub, storage.log, settings.scan_interval)
    storage.recorder.start()
    stack.push_async_callback(storage.recorder.stop)
    poller.service.start()
    stack.push_async_callback(poller.service.stop)
    storage.doorbell.service.start()
    stack.push_async_callback(storage.doorbell.close)


async def _all_at_once(closers: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Each waits a moment for a database that may not answer; one after the other they would take too long."""
    await asyncio.gather(*(close() for close in closers))
