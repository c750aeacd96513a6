"""A running process: storage, engine and use cases, started in that order and stopped in the opposite one."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote, urlsplit

import structlog

from app import metrics
from app.auth.secret import derive_password
from app.db import selfcheck
from app.db.urls import LOGINS, role_url
from app.domain.scrubbing import Scrubber
from app.engine.attempt import OutputRules
from app.engine.definitions import Definitions
from app.engine.orchestrator import EngineSettings, Orchestrator
from app.services import Services
from app.settings import Settings
from app.steps.registry import StepRegistry, default_registry
from app.wiring.services import make_services
from app.wiring.storage import Storage, open_storage

log = structlog.get_logger("server")


@dataclass(frozen=True, slots=True)
class Runtime:
    """A running process: its use cases and its engine."""

    services: Services
    orchestrator: Orchestrator

    def begin_drain(self) -> None:
        """Refuse new requests and end streams at once; running executions go on until the drain budget is used up."""
        self.orchestrator.stop_claiming()
        self.services.streams.drain()

    async def drain(self) -> None:
        """Wait for what runs, within the drain budget, and hand the rest to other processes."""
        self.begin_drain()
        await self.orchestrator.drain()


@dataclass(frozen=True, slots=True)
class Engine:
    """The part of a running process that carries executions out."""

    storage: Storage
    definitions: Definitions
    steps: StepRegistry
    orchestrator: Orchestrator


async def start(
    settings: Settings, admin_url: str | None, storage_full: Callable[[], bool], stack: AsyncExitStack
) -> Runtime:
    """Make and start everything; `stack` stops it in the opposite order. Refuses a database that is not safe to use."""
    engine = await start_engine(settings, admin_url, stack)
    storage, orchestrator = engine.storage, engine.orchestrator
    metrics.executions_running.set_function(lambda: orchestrator.running)
    metrics.stream_subscribers.set_function(lambda: storage.hub.subscribers)
    services = make_services(settings, storage, orchestrator, engine.definitions, engine.steps, storage_full)
    stack.push_async_callback(services.identity.close)
    return Runtime(services, orchestrator)


async def start_engine(settings: Settings, admin_url: str | None, stack: AsyncExitStack) -> Engine:
    """Make and start what carries executions out, without use cases; refuses an unsafe database, as `start` does."""
    urls = {role: role_url(settings, role, partial(derive_password, settings.db_secret), admin_url) for role in LOGINS}
    for warning in await selfcheck.check(urls):
        log.warning(warning)
    steps = default_registry(settings)
    stack.push_async_callback(steps.aclose)
    rules = engine_settings(settings, urls)
    storage = await open_storage(settings, rules, urls, stack)
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
        settings=rules,
    )
    await orchestrator.start()
    stack.push_async_callback(orchestrator.drain)
    return Engine(storage, definitions, steps, orchestrator)


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
