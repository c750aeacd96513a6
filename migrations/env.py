"""Alembic's way in: with an open connection from `app.db.migrate`, with DATABASE_URL from the command line.

The command line creates missing roles without passwords; `stepstream migrate` sets those.
"""

# ruff: noqa: INP001 - Alembic loads this file by its path; it belongs to no package.

import asyncio
import logging

from alembic import context
from alembic.runtime.migration import MigrationInfo
from alembic.script import Script
from sqlalchemy import Connection

from app.crashpoints import crashpoint
from app.db.migrate import mark, migration_connection
from app.db.tables import metadata
from app.settings import Settings, SettingsError


def run(connection: Connection) -> None:
    applied: list[str] = context.config.attributes.get("applied", [])
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        on_version_apply=lambda step, **_: _applied(connection, step, applied),
    )
    with context.begin_transaction():
        context.run_migrations()


def _applied(connection: Connection, step: MigrationInfo, applied: list[str]) -> None:
    if step.is_upgrade and isinstance(step.up_revision, Script):
        connection.exec_driver_sql(mark(step.up_revision))
    crashpoint("in_migration")
    applied.append(str(step.up_revision_id))


async def run_from_command_line() -> None:
    url = Settings().database_url
    if not url:
        raise SettingsError("Set DATABASE_URL to a login that may migrate: a superuser, or the owner of the database")
    async with migration_connection(url.get_secret_value(), lambda _: None) as connection:
        await connection.run_sync(run)


def print_sql() -> None:
    context.configure(dialect_name="postgresql", target_metadata=metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    print_sql()
elif "connection" in context.config.attributes:
    run(context.config.attributes["connection"])
else:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("alembic").setLevel(logging.INFO)
    asyncio.run(run_from_command_line())
