"""`up` and `serve`: a server, on the embedded Postgres or on the operator's own; `migrate`."""

import asyncio
import importlib
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console

from app import crashpoints
from app.cli.banner import Place, announce_admin, greet
from app.cli.deployment import (
    Prepared,
    embedded_postgres,
    for_embedded,
    load_settings,
    migrator_url,
    names_database,
    prepare,
    with_local_origin,
)
from app.cli.failures import CommandFailed
from app.cli.serving import bind, port_of, serving, url_of
from app.cli.stopping import StopSignals, run_until_stopped
from app.embedded import EmbeddedPostgres
from app.logs import configure_logs
from app.settings import SECRET_FILE, Settings

log = structlog.get_logger("server")


def up(data_dir: Path | None, host: str | None, port: int | None) -> int:
    """Serve on the embedded Postgres until told to stop; the exit code."""
    settings = load_settings(data_dir=data_dir, host=host, port=port)
    _configure(settings)
    console = Console(stderr=True, highlight=False)
    if names_database(settings):
        console.print("DATABASE_URL is set but not used: `up` has a Postgres of its own; `serve` uses DATABASE_URL.")
    with bind(settings.host, settings.port) as bound:
        settings = for_embedded(with_local_origin(settings.model_copy(update={"port": port_of(bound)})))
        settings.ensure_data_dir()
        return run_until_stopped(lambda signals: _up(settings, bound, signals, console))


async def _up(settings: Settings, bound: socket.socket, signals: StopSignals, console: Console) -> int:
    async with AsyncExitStack() as stack:
        with signals.breaking_off():
            server = await stack.enter_async_context(local_server(settings, bound, _tell_log))
        place = Place(url_of(settings.host, settings.port), settings.data_dir)
        greet(console, place, server.prepared.admin)
        await _until_asked(signals, place.url)
    log.info("stopped")
    return 0


def _tell_log(done: str, _following: str) -> None:
    log.info(done)


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A server on the embedded Postgres, ready; `admin_url` is the database's superuser's."""

    prepared: Prepared
    admin_url: str


Tell = Callable[[str, str], None]
"""Told what the start has got done, and what follows."""


@asynccontextmanager
async def local_server(settings: Settings, bound: socket.socket, tell: Tell) -> AsyncIterator[LocalServer]:
    """Serve on the embedded Postgres inside the block, which begins when the server is ready."""
    # Loading the server's code takes as long as starting Postgres, and mostly waits for other things.
    loading = asyncio.create_task(asyncio.to_thread(importlib.import_module, "app.main"))
    release = version("embedded-postgres").rpartition(".")[0]
    async with embedded_postgres(settings) as postgres:
        tell(f"Postgres {release} runs", "Migrating")
        prepared = await prepare(settings, postgres.admin_url)
        await loading
        count = len(prepared.applied)
        tell(f"{count} migrations applied" if count else "The schema is up to date", "Starting the server")
        async with _application(settings, bound, postgres):
            tell(f"The server listens on port {settings.port}", "Ready")
            yield LocalServer(prepared, postgres.admin_url)


def serve(host: str | None, port: int | None, *, migrate_first: bool) -> int:
    """Serve on DATABASE_URL until told to stop; the exit code."""
    settings = load_settings(host=host, port=port)
    _configure(settings)
    if not names_database(settings):
        raise CommandFailed(
            "`stepstream serve` needs DATABASE_URL; for a Postgres that comes along with Stepstream: `stepstream up`"
        )
    with bind(settings.host, settings.port) as bound:
        settings = settings.model_copy(update={"port": port_of(bound)})
        return run_until_stopped(lambda signals: _serve(settings, bound, signals, migrate_first=migrate_first))


async def _serve(settings: Settings, bound: socket.socket, signals: StopSignals, *, migrate_first: bool) -> int:
    async with AsyncExitStack() as stack:
        with signals.breaking_off():
            if migrate_first:
                await _prepare_external(settings, Console(stderr=True, highlight=False))
            await stack.enter_async_context(_application(settings, bound, None))
        await _until_asked(signals, url_of(settings.host, settings.port))
    log.info("stopped")
    return 0


def migrate(data_dir: Path | None) -> int:
    """Migrate DATABASE_URL's database or, without it or with a data directory, the embedded one; the exit code."""
    settings = load_settings(data_dir=data_dir)
    configure_logs("human", "warning")
    crashpoints.arm(settings.crashpoints)
    return asyncio.run(_migrate(settings, external=data_dir is None and names_database(settings)))


async def _migrate(settings: Settings, *, external: bool) -> int:
    console = Console(highlight=False)
    if external:
        await _prepare_external(settings, console)
        return 0
    settings = for_embedded(settings)
    settings.ensure_data_dir()
    async with embedded_postgres(settings) as postgres:
        _tell(console, await prepare(settings, postgres.admin_url))
    return 0


async def _prepare_external(settings: Settings, console: Console) -> None:
    migrator_url(settings)
    if settings.secret_key_file is None:
        key = settings.data_dir / SECRET_FILE
        new = not key.exists()
        settings.ensure_data_dir()
        if new:
            console.print(
                f"A new secret key is in {key}: every process of this deployment needs this same file "
                "(STEPSTREAM_SECRET_KEY_FILE).",
                soft_wrap=True,
            )
    _tell(console, await prepare(settings, None))


def _tell(console: Console, prepared: Prepared) -> None:
    for revision in prepared.applied:
        console.print(f"applied {revision}")
    if not prepared.applied:
        console.print("The schema is up to date.")
    announce_admin(console, prepared.admin)


@asynccontextmanager
async def _application(
    settings: Settings, bound: socket.socket, postgres: EmbeddedPostgres | None
) -> AsyncIterator[None]:
    from app.main import create_app

    app = create_app(settings) if postgres is None else create_app(settings, postgres.admin_url, postgres.storage_full)
    async with serving(app, bound):
        yield


async def _until_asked(signals: StopSignals, url: str) -> None:
    log.info("ready", url=url)
    await signals.asked.wait()
    log.info("stopping", signal=signals.received, hint="a second signal ends the process at once")


def _configure(settings: Settings) -> None:
    chosen: Any = settings.log_format
    if "log_format" not in settings.model_fields_set and sys.stderr.isatty():
        chosen = "human"
    configure_logs(chosen, settings.log_level)
    crashpoints.arm(settings.crashpoints)
