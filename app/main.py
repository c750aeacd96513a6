"""The composition root of the server: every part is made here, once, and given what it needs."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote, urlsplit

import structlog
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.middleware.cors import CORSMiddleware

from app import clock, metrics
from app.api.admission import Admission
from app.api.edge import Edge
from app.api.errors import add_error_handlers
from app.api.gate import Gate
from app.api.openapi import describe
from app.api.operations import operations
from app.api.pagination import Cursors
from app.api.v1 import (
    api_keys,
    approvals,
    audit_logs,
    auth,
    budgets,
    control,
    executions,
    failures,
    insight,
    lineage,
    secrets,
    step_types,
    streams,
    workflows,
)
from app.auth.authenticator import Authenticator
from app.auth.passwords import Passwords
from app.auth.rates import Rate, Rates
from app.auth.sealing import MasterKeys
from app.auth.secret import derive, derive_password
from app.auth.sessions import Sessions
from app.auth.throttle import SignInThrottle
from app.auth.tickets import StreamTickets
from app.auth.tokens import AccessTokens
from app.db import selfcheck
from app.db.audit_sealer import AuditSealer
from app.db.budget_book import PostgresBudgetBook
from app.db.credentials import Credentials
from app.db.doorbell import PostgresDoorbell
from app.db.earlier_runs import PostgresEarlierRuns
from app.db.engines import api_engine, auth_engine, connect
from app.db.event_log import PostgresEventLog
from app.db.probe import Probe
from app.db.queue import Queue
from app.db.recorder import GroupRecorder
from app.db.result_cache import PostgresResultCache
from app.db.secret_vault import PostgresSecretVault
from app.db.tenancy import Tenancy
from app.db.urls import API, AUTH, ENGINE, LOGINS, role_url
from app.db.workers import Workers
from app.db.workflow_source import WorkflowSource
from app.domain.scrubbing import Scrubber
from app.engine.attempt import OutputRules
from app.engine.definitions import Definitions
from app.engine.orchestrator import EngineSettings, Orchestrator
from app.services import Services
from app.services.api_keys import ApiKeys
from app.services.approvals import Approvals
from app.services.audit import Audit
from app.services.budgets import DayBudgets
from app.services.bulk import Bulk
from app.services.control import Control
from app.services.executions import Executions
from app.services.health import Health
from app.services.identity import Identity
from app.services.insight import Insight
from app.services.lineage import Lineages
from app.services.run_facts import Limits
from app.services.secrets import Secrets, unsealed
from app.services.starts import Starts
from app.services.streams import Streams
from app.services.workflows import Workflows
from app.settings import Settings
from app.steps.registry import StepRegistry, default_registry
from app.streaming.hub import Hub
from app.streaming.places import StreamPlaces
from app.streaming.poller import Poller

VERSION = "0.1.0"
RATE_SECONDS = 10
"""The period that limits of requests are counted over."""

log = structlog.get_logger("server")


@dataclass(frozen=True, slots=True)
class Runtime:
    """A running process: its use cases and its engine."""

    services: Services
    orchestrator: Orchestrator

    def begin_drain(self) -> None:
        """Refuse new requests and end streams at once; running executions go on until the drain budget is used up."""
        self.orchestrator.stop_claiming()
        self.services.streams.draining.set()

    async def drain(self) -> None:
        """Wait for what runs, within the drain budget, and hand the rest to other processes."""
        self.begin_drain()
        await self.orchestrator.drain()


def create_app(
    settings: Settings, admin_url: str | None = None, storage_full: Callable[[], bool] = lambda: False
) -> FastAPI:
    """The ASGI app. `admin_url` names the database when the settings do not: the embedded one.

    `storage_full` says whether that one is running out of space.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            runtime = await start(settings, admin_url, storage_full, stack)
            app.state.runtime, app.state.services = runtime, runtime.services
            yield
            await runtime.drain()

    app: FastAPI = FastAPIOffline(
        title="Stepstream",
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        static_url="/docs-assets",
        swagger_ui_parameters={"persistAuthorization": True, "displayRequestDuration": True, "tryItOutEnabled": True},
    )
    app.state.settings = settings
    app.state.cursors = Cursors(derive(settings.secret, "cursor"))
    add_error_handlers(app)
    add_routes(app)
    add_middleware(app, settings)
    describe(app)
    return app


def add_routes(app: FastAPI) -> None:
    """Every resource under /api/v1, operations at the root."""
    prefix = "/api/v1"
    for resource in (
        auth.router,
        workflows.router,
        executions.of_workflow,
        executions.executions,
        control.router,
        lineage.executions,
        lineage.of_workflow,
        approvals.router,
        budgets.router,
        insight.router,
        failures.router,
        streams.events,
        streams.sockets,
        step_types.router,
        api_keys.router,
        secrets.router,
        audit_logs.router,
    ):
        app.include_router(resource, prefix=prefix)
    app.include_router(operations)


def add_middleware(app: FastAPI, settings: Settings) -> None:
    """From the inside out: who is let in, CORS for the configured origins, and the edge around every answer."""
    app.add_middleware(
        Gate,
        admission=Admission(settings.max_requests, settings.max_waiting_requests, settings.max_request_bytes),
        draining=lambda: _draining(app),
        max_body=settings.max_body,
        max_workflow_body=settings.max_workflow_body,
    )
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[
                "ETag", "Link", "Location", "Idempotency-Replayed", "RateLimit", "RateLimit-Policy", "Retry-After",
                "X-Request-ID",
            ],
        )  # fmt: skip
    app.add_middleware(Edge)


def _draining(app: FastAPI) -> bool:
    runtime: Runtime | None = getattr(app.state, "runtime", None)
    return runtime is not None and runtime.services.streams.draining.is_set()


async def start(
    settings: Settings, admin_url: str | None, storage_full: Callable[[], bool], stack: AsyncExitStack
) -> Runtime:
    """Make and start everything; `stack` stops it in the opposite order. Refuses a database that is not safe to use."""
    urls = {role: role_url(settings, role, partial(derive_password, settings.db_secret), admin_url) for role in LOGINS}
    for warning in await selfcheck.check(urls):
        log.warning(warning)
    steps = default_registry(settings)
    stack.push_async_callback(steps.aclose)
    storage = await open_storage(settings, urls, stack)
    definitions = Definitions(storage.source, steps)
    orchestrator = Orchestrator(
        queue=storage.queue,
        registry=storage.workers,
        recorder=storage.recorder,
        definitions=definitions,
        source=storage.source,
        earlier=storage.earlier,
        cache=storage.cache,
        book=storage.book,
        vault=storage.vault,
        step_type=steps.__getitem__,
        doorbell=storage.doorbell,
        settings=engine_settings(settings, urls),
    )
    await orchestrator.start()
    stack.push_async_callback(orchestrator.drain)
    metrics.executions_running.set_function(lambda: orchestrator.running)
    metrics.stream_subscribers.set_function(lambda: storage.hub.subscribers)
    services = make_services(settings, storage, orchestrator, definitions, steps, storage_full)
    stack.push_async_callback(services.identity.close)
    return Runtime(services, orchestrator)


@dataclass(frozen=True, slots=True)
class Storage:
    """Everything that talks to the database, each on connections of its own kind."""

    api_pool: AsyncEngine
    auth_pool: AsyncEngine
    tenancy: Tenancy
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
    probe: Probe


async def open_storage(settings: Settings, urls: dict[str, str], stack: AsyncExitStack) -> Storage:
    """Open the pools, the recorder, the doorbell and the poller."""
    sender = clock.new_id("process")
    dedicated = partial(connect, urls[ENGINE], "stepstream-engine")
    api_pool, auth_pool = api_engine(urls[API], settings.api_pool_size), auth_engine(urls[AUTH])
    tenancy, hub = Tenancy(api_pool), Hub()
    storage = Storage(
        api_pool=api_pool,
        auth_pool=auth_pool,
        tenancy=tenancy,
        source=WorkflowSource(dedicated),
        earlier=PostgresEarlierRuns(dedicated),
        cache=PostgresResultCache(dedicated),
        book=PostgresBudgetBook(dedicated),
        vault=PostgresSecretVault(dedicated, partial(unsealed, MasterKeys(settings.master_secrets))),
        log=PostgresEventLog(tenancy, dedicated),
        queue=Queue(
            dedicated,
            max_running_per_user=settings.max_running_per_user,
            max_running_per_org=settings.max_running_per_org,
            suspect_from=engine_settings(settings, urls).suspect_from,
        ),
        workers=Workers(partial(connect, urls[ENGINE], "stepstream-lease")),
        hub=hub,
        doorbell=PostgresDoorbell(partial(connect, urls[ENGINE], "stepstream-doorbell"), sender),
        recorder=GroupRecorder(dedicated, hub, sender=sender, writers=settings.writers, on_flush=metrics.observe_flush),
        probe=Probe(partial(connect, urls[API], "stepstream-health")),
    )
    for close in (api_pool.dispose, auth_pool.dispose, storage.source.close, storage.log.close, storage.queue.close):
        stack.push_async_callback(close)
    stack.push_async_callback(storage.probe.close)
    stack.push_async_callback(storage.earlier.close)
    stack.push_async_callback(storage.cache.close)
    stack.push_async_callback(storage.book.close)
    stack.push_async_callback(storage.vault.close)
    stack.push_async_callback(storage.workers.close)
    storage.doorbell.on_ring("events", hub.moved)
    poller = Poller(hub, storage.log, settings.scan_interval)
    storage.recorder.start()
    stack.push_async_callback(storage.recorder.stop)
    poller.service.start()
    stack.push_async_callback(poller.service.stop)
    storage.doorbell.service.start()
    stack.push_async_callback(storage.doorbell.close)
    sealer = AuditSealer(partial(connect, urls[ENGINE], "stepstream-sealer"))
    sealer.service.start()
    stack.push_async_callback(sealer.close)
    return storage


def engine_settings(settings: Settings, urls: dict[str, str]) -> EngineSettings:
    """The engine's part of the settings. The passwords in the roles' URLs are for nobody's eyes either."""
    passwords = (unquote(urlsplit(url).password or "") for url in urls.values())
    return EngineSettings(
        lease_ttl=settings.lease_ttl,
        scan_interval=settings.scan_interval,
        max_running=settings.max_running,
        max_recoveries=settings.max_recoveries,
        drain_budget=settings.drain_budget,
        cancel_grace=settings.cancel_grace,
        output_rules=OutputRules(settings.max_output, Scrubber([*settings.secret_values, *passwords])),
    )


def make_streams(settings: Settings, storage: Storage) -> Streams:
    """The use cases of streams."""
    places = StreamPlaces(settings.max_streams_per_user, settings.max_streams_per_org)
    return Streams(storage.tenancy, storage.hub, storage.log, places)


def make_services(
    settings: Settings,
    storage: Storage,
    orchestrator: Orchestrator,
    definitions: Definitions,
    steps: StepRegistry,
    storage_full: Callable[[], bool],
) -> Services:
    """The use cases, on the storage and the engine."""
    credentials = Credentials(storage.auth_pool)
    tokens = AccessTokens(settings.secret, settings.access_token_ttl)
    authenticator = Authenticator(credentials, tokens)
    passwords = Passwords()
    sessions = Sessions(credentials, tokens, passwords, SignInThrottle(), refresh_ttl=settings.refresh_token_ttl)
    tenancy = storage.tenancy
    audit, streams_service = Audit(tenancy), make_streams(settings, storage)
    executions_service = Executions(tenancy, definitions)
    stored_secrets = Secrets(tenancy, MasterKeys(settings.master_secrets), audit)
    starts = Starts(
        secrets=stored_secrets,
        executions=executions_service,
        workflows=storage.source,
        definitions=definitions,
        recorder=storage.recorder,
        nudge=orchestrator.nudge,
    )
    lineages = Lineages(tenancy, starts, audit)
    return Services(
        authenticator=authenticator,
        rates=Rates(
            callers=Rate("requests", settings.max_request_rate, RATE_SECONDS),
            strangers=Rate("refused", settings.max_refused_rate, RATE_SECONDS),
        ),
        tickets=StreamTickets(credentials, authenticator),
        identity=Identity(sessions=sessions, passwords=passwords, credentials=credentials, tenancy=tenancy),
        api_keys=ApiKeys(tenancy, audit),
        secrets=stored_secrets,
        audit=audit,
        workflows=Workflows(tenancy, definitions, steps, stored_secrets, audit),
        executions=executions_service,
        starts=starts,
        control=Control(tenancy, definitions, audit),
        lineages=lineages,
        budgets=DayBudgets(tenancy, audit, orchestrator.budgets.refresh),
        bulk=Bulk(tenancy, lineages, audit),
        approvals=Approvals(tenancy, audit),
        insight=Insight(
            tenancy,
            definitions,
            Limits(settings.max_running_per_user, settings.max_running_per_org, settings.cancel_grace),
            {spec.type: spec.result_keys for spec in steps.specs() if spec.result_keys},
        ),
        streams=streams_service,
        health=Health(
            storage.probe,
            storage.queue.depth,
            lambda: orchestrator.lease_trusted,
            streams_service.draining.is_set,
            storage_full,
        ),
    )
