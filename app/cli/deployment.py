"""The deployment that a command works on: its settings, its database, its first admin.

A database is either the embedded Postgres of a data directory or the one that DATABASE_URL names. Whether a command
takes the former is decided once, here, and then no other URL of the environment plays a part.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.auth.passwords import Passwords
from app.auth.sealing import MasterKeys
from app.auth.secret import derive_password
from app.auth.sessions import Sessions
from app.auth.throttle import SignInThrottle
from app.auth.tokens import AccessTokens
from app.cli.failures import CommandFailed
from app.db import selfcheck
from app.db.credentials import Credentials
from app.db.engines import api_engine, auth_engine, close_pool, connect
from app.db.migrate import migrate
from app.db.secret_vault import PostgresSecretVault
from app.db.tenancy import Tenancy
from app.db.urls import API, AUTH, ENGINE, LOGINS, driver_url, own_passwords, role_url
from app.embedded import EmbeddedPostgres
from app.settings import SECRET_FILE, Settings, SettingsError

if TYPE_CHECKING:  # loading it loads all use cases, which not every command needs
    from app.services.identity import FirstAdmin, Identity

UI_ORIGIN = "http://localhost:5173"
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_URLS = ("database_url", "api_database_url", "engine_database_url", "auth_database_url")


def load_settings(**given: Any) -> Settings:
    """The settings of the environment, with what the command line gave (not None) on top."""
    return Settings(**{name: value for name, value in given.items() if value is not None})


def for_embedded(settings: Settings) -> Settings:
    """The same for the embedded Postgres: URLs of the environment belong to something else."""
    return settings.model_copy(update=dict.fromkeys(_URLS))


def names_database(settings: Settings) -> bool:
    """Whether the environment names a database of the operator's own."""
    return any(getattr(settings, name) is not None for name in _URLS)


def with_local_origin(settings: Settings) -> Settings:
    """On a loopback address, let the web UI's development server in unless origins were chosen."""
    if "allowed_origins" in settings.model_fields_set or settings.host not in _LOOPBACK:
        return settings
    return settings.model_copy(update={"allowed_origins": [UI_ORIGIN]})


@asynccontextmanager
async def embedded_postgres(settings: Settings) -> AsyncIterator[EmbeddedPostgres]:
    """Use the embedded Postgres inside the block, and keep it running.

    The last of its users stops it.
    """
    postgres = EmbeddedPostgres(settings.data_dir)
    starting = asyncio.ensure_future(asyncio.to_thread(postgres.start))
    over = asyncio.Event()
    supervisor: asyncio.Task[None] | None = None
    try:
        await asyncio.shield(starting)
        supervisor = asyncio.create_task(postgres.supervise(over), name="postgres-supervisor")
        yield postgres
    finally:
        over.set()
        # A start cannot be broken off in the middle; one that succeeded after all is undone.
        await asyncio.wait({starting} if supervisor is None else {starting, supervisor})
        if starting.exception() is None:
            await asyncio.to_thread(postgres.stop_if_last)


@asynccontextmanager
async def chosen_database(settings: Settings, data_dir: Path | None) -> AsyncIterator[tuple[Settings, str | None]]:
    """The database of a command that works on either: that of a data directory if given, else DATABASE_URL's if set,
    else that of the usual data directory. Yields the settings to use, and the embedded one's URL.

    Raises CommandFailed if there is no installation in the data directory.
    """
    if data_dir is None and names_database(settings):
        yield settings, None
        return
    if not (settings.data_dir / SECRET_FILE).exists():
        raise CommandFailed(
            f"There is no installation in {settings.data_dir}: make one with `stepstream up`, or name another "
            "directory with --data-dir"
        )
    settings = for_embedded(settings)
    async with embedded_postgres(settings) as postgres:
        yield settings, postgres.admin_url


@dataclass(frozen=True, slots=True)
class Prepared:
    """What bringing a database up to date did."""

    applied: list[str]
    admin: "FirstAdmin"


def migrator_url(settings: Settings) -> str:
    """DATABASE_URL, checked; raises SettingsError."""
    if settings.database_url is None:
        raise SettingsError(
            "Migrating needs DATABASE_URL: a login that is superuser, or has CREATEROLE and owns the database"
        )
    return driver_url(settings.database_url.get_secret_value())


async def prepare(settings: Settings, admin_url: str | None) -> Prepared:
    """Migrate the embedded database if its URL is given, else DATABASE_URL's, and make sure somebody can sign in."""
    password_for = own_passwords(settings, partial(derive_password, settings.db_secret))
    applied = await migrate(admin_url or migrator_url(settings), password_for)
    async with local_identity(settings, admin_url) as identity:
        return Prepared(applied, await identity.ensure_first_admin(settings.data_dir))


async def issue_token(settings: Settings, data_dir: Path | None, ttl_seconds: float) -> str:
    """A fresh API key of the local admin."""
    async with chosen_database(settings, data_dir) as (chosen, admin_url):
        urls = {role: role_url(chosen, role, partial(derive_password, chosen.db_secret), admin_url) for role in LOGINS}
        await selfcheck.check(urls)
        async with local_identity(chosen, admin_url) as identity:
            return await identity.issue_local_key(ttl_seconds)


async def reseal(settings: Settings, data_dir: Path | None) -> tuple[int, int]:
    """Seal every organisation's secrets under the present master secret: how many were, how many cannot be opened."""
    from app.services.secrets import rotate, unsealed

    async with chosen_database(settings, data_dir) as (chosen, admin_url):
        keys = MasterKeys(chosen.master_secrets)
        url = role_url(chosen, ENGINE, partial(derive_password, chosen.db_secret), admin_url)
        vault = PostgresSecretVault(partial(connect, url, "stepstream-keys"), partial(unsealed, keys))
        try:
            return await rotate(keys, vault)
        finally:
            await vault.close()


@asynccontextmanager
async def local_identity(settings: Settings, admin_url: str | None) -> AsyncIterator["Identity"]:
    """The use cases about people, for who has the machine: no server, and no engine that takes on work."""
    from app.services.identity import Identity

    password_for = partial(derive_password, settings.db_secret)
    auth_pool = auth_engine(role_url(settings, AUTH, password_for, admin_url))
    api_pool = api_engine(role_url(settings, API, password_for, admin_url), 1)
    credentials, passwords = Credentials(auth_pool), Passwords()
    tokens = AccessTokens(settings.secret, settings.access_token_ttl)
    sessions = Sessions(credentials, tokens, passwords, SignInThrottle(), refresh_ttl=settings.refresh_token_ttl)
    identity = Identity(sessions=sessions, passwords=passwords, credentials=credentials, tenancy=Tenancy(api_pool))
    try:
        yield identity
    finally:
        await identity.close()
        await close_pool(auth_pool)
        await close_pool(api_pool)
