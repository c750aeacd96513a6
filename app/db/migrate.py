"""Bringing a database to the schema of this version: roles, then migrations, by one migrator at a time.

Migrators wait for each other on a session lock of the database. Each migration is a transaction of its own and gives up
on a lock that it does not get soon, rather than have the requests behind it queue.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

import app
from app.db.engines import DriverConnection, single_connection_engine
from app.db.errors import translated
from app.db.provision import provision
from app.db.urls import OWNER, PasswordFor
from app.domain.errors import StepstreamError

_LOCK = "SELECT pg_advisory_lock(hashtextextended('stepstream migrate', 0))"
_LOCK_TIMEOUT = "5s"
_MARK_TEXT = "Serves versions of Stepstream from revision {} on"
_MARK = f"COMMENT ON TABLE public.alembic_version IS '{_MARK_TEXT}'"
_MARKED = "obj_description('public.alembic_version'::regclass, 'pg_class')"
# Alembic keeps the migration that runs in globals of its own: two at once would write into each other's database.
_alembic = asyncio.Lock()


class SchemaOutdated(StepstreamError):
    """Schema and version do not belong together; says what to run."""

    code = "schema_outdated"


async def migrate(admin_url: str, password_for: PasswordFor) -> list[str]:
    """Provision the database and bring it to the newest schema; the revisions applied now, oldest first.

    Raises ProvisionError when the login may not, SchemaOutdated when the database is ahead of this version, Unavailable
    when it does not answer or a lock is not to be had. What was applied before stays; another run goes on from there.
    """
    applied: list[str] = []
    with translated():
        async with migration_connection(admin_url, password_for) as connection:
            async with _alembic:
                await connection.run_sync(_upgrade, applied)
    return applied


@asynccontextmanager
async def migration_connection(admin_url: str, password_for: PasswordFor) -> AsyncIterator[AsyncConnection]:
    """A connection acting as the owner of the tables, alone among migrators, to a provisioned database."""
    engine = single_connection_engine(admin_url, "stepstream-migrate")
    try:
        async with engine.connect() as connection:
            driver = cast("DriverConnection", (await connection.get_raw_connection()).driver_connection)
            await driver.execute(_LOCK)
            await provision(driver, password_for)
            # The server's own setting of the path must not decide where the tables come to be.
            await driver.execute(f"SET ROLE {OWNER}; SET search_path = public; SET lock_timeout = '{_LOCK_TIMEOUT}'")
            yield connection
    finally:
        await engine.dispose()


def alembic_config() -> Config:
    """Alembic's configuration for the migrations of this version, wherever they are installed."""
    config = Config()
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    return config


def script_location(package: Path = Path(app.__file__).parent) -> Path:
    """The migrations: inside the package when installed from a wheel, beside it in the repository."""
    installed = package / "migrations"
    return installed if (installed / "env.py").exists() else package.parent / "migrations"


def known_revisions() -> tuple[str, frozenset[str]]:
    """The newest revision of this version, and all that it knows."""
    scripts = ScriptDirectory.from_config(alembic_config())
    head = scripts.get_current_head()
    if head is None:
        raise FileNotFoundError(f"no migrations in {scripts.dir}: the installation is incomplete")
    return head, frozenset(script.revision for script in scripts.walk_revisions())


def mark(script: Script) -> str:
    """The statement that leaves a mark, with a migration, of how old a process may be that uses its schema.

    A migration whose module says `additive = True` only adds what processes of the version before do not see: they may
    go on, and start anew. Any other is for its own version and later ones.
    """
    if not getattr(script.module, "additive", False):
        return _MARK.format(script.revision)
    return f"DO $$ BEGIN IF {_MARKED} IS NULL THEN {_MARK.format(script.down_revision)}; END IF; END $$"


async def serves(connection: DriverConnection, known: Collection[str]) -> bool:
    """Whether a schema of a revision that this version does not know serves it nevertheless, by its mark."""
    found = re.fullmatch(_MARK_TEXT.format(r"(\w+)"), await connection.fetchval(f"SELECT {_MARKED}") or "")
    return found is not None and found[1] in known


def _upgrade(connection: Connection, applied: list[str]) -> None:
    config = alembic_config()
    config.attributes.update(connection=connection, applied=applied)
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise SchemaOutdated(
            f"This version of Stepstream cannot migrate this database: {error}. Run the version that migrated it, or a "
            "newer one"
        ) from error
