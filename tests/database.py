"""Databases for tests: one server per session, one migrated template, a clone of it for each test.

The server is the embedded one in a temporary directory, with durability off for speed (tests about crashes start their
own), or an external one whose superuser's URL is in STEPSTREAM_TEST_DATABASE_URL.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from app import clock
from app.auth.secret import derive_password
from app.db.engines import DriverConnection, connect
from app.db.migrate import migrate
from app.db.provision import open_database
from app.db.urls import LOGINS, driver_url, with_login
from app.embedded import EmbeddedPostgres

EXTERNAL = os.environ.get("STEPSTREAM_TEST_DATABASE_URL")
UNSAFE_BUT_FAST = ("fsync", "full_page_writes", "synchronous_commit")


SECRET = "test-secret-" * 6


def password_for(role: str) -> str:
    return derive_password(SECRET.encode(), role)


class Database:
    """A database of the test's own. `fetch`, `fetchval` and `execute` act as superuser, beyond row-level security."""

    def __init__(self, name: str, admin_url: str, connection: DriverConnection) -> None:
        self.name = name
        self.admin_url = admin_url
        self._connection = connection

    def role_url(self, role: str) -> str:
        return with_login(self.admin_url, role, password_for(role))

    def role_urls(self) -> dict[str, str]:
        return {role: self.role_url(role) for role in LOGINS}

    @asynccontextmanager
    async def connected(self, role: str | None = None) -> AsyncIterator[DriverConnection]:
        """Another connection, as one of the roles or as superuser."""
        connection = await connect(self.role_url(role) if role else self.admin_url, "test")
        try:
            yield connection
        finally:
            await connection.close()

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        return await self._connection.fetch(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        return await self._connection.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        return await self._connection.execute(sql, *args)

    async def add_tenant(self, org_id: str) -> None:
        """An organisation with one member (`user_<org_id>`) and one published workflow (`wf_<org_id>`)."""
        await self.execute("INSERT INTO organizations (id, name) VALUES ($1, $1)", org_id)
        await self.execute(
            "INSERT INTO users (id, email, name) VALUES ('user_' || $1::text, $1 || '@example.com', 'Ann')", org_id
        )
        await self.execute(
            "INSERT INTO memberships (org_id, user_id, role) VALUES ($1, 'user_' || $1::text, 'owner')", org_id
        )
        await self.execute(
            "INSERT INTO workflows (org_id, id, name, latest_version, published_version) "
            "VALUES ($1, 'wf_' || $1::text, 'Workflow', 1, 1)",
            org_id,
        )
        await self.execute(
            "INSERT INTO workflow_versions (org_id, workflow_id, version, definition) "
            "VALUES ($1, 'wf_' || $1::text, 1, '{}')",
            org_id,
        )


class Server:
    """A Postgres server that makes databases; `admin_url` is its superuser's, to its maintenance database."""

    def __init__(self, admin_url: str, connection: DriverConnection) -> None:
        self.admin_url = admin_url
        self.connection = connection
        self._prefix = clock.new_id("test")[-8:]
        self._numbers = count(1)

    @asynccontextmanager
    async def database(self, template: str | None = None, owner: str | None = None) -> AsyncIterator[Database]:
        """A new database, empty or a clone, dropped at the end together with whoever is still connected."""
        name = f"test_{self._prefix}_{next(self._numbers)}"
        clauses = (f" TEMPLATE {template}" if template else "") + (f" OWNER {owner}" if owner else "")
        await self.connection.execute(f"CREATE DATABASE {name}{clauses}")
        url = urlsplit(self.admin_url)._replace(path=f"/{name}").geturl()
        try:
            connection = await connect(url, "test")
            try:
                if template:
                    # A clone has the template's tables but not its access rules.
                    await open_database(connection)
                yield Database(name, url, connection)
            finally:
                await connection.close()
        finally:
            await self.connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @asynccontextmanager
    async def template(self) -> AsyncIterator[str]:
        """The name of a migrated database that nobody is connected to."""
        name = f"template_{self._prefix}"
        await self.connection.execute(f"CREATE DATABASE {name}")
        try:
            await migrate(urlsplit(self.admin_url)._replace(path=f"/{name}").geturl(), password_for)
            yield name
        finally:
            await self.connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def embedded_server(*, durable: bool = True) -> AsyncIterator[Server]:
    """A new embedded Postgres without any of our roles; nothing is left of it afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="stepstream-"))
    postgres = EmbeddedPostgres(directory / "data")
    try:
        await asyncio.to_thread(postgres.start)
        async with connected_server(postgres.url("postgres", "postgres")) as server:
            if not durable:
                for setting in UNSAFE_BUT_FAST:
                    await server.connection.execute(f"ALTER SYSTEM SET {setting} = off")
                await server.connection.execute("SELECT pg_reload_conf()")
            yield server
    finally:
        await asyncio.to_thread(postgres.stop_if_last)
        await asyncio.to_thread(shutil.rmtree, directory)


@asynccontextmanager
async def connected_server(admin_url: str) -> AsyncIterator[Server]:
    connection = await connect(admin_url, "test")
    try:
        yield Server(admin_url, connection)
    finally:
        await connection.close()


@asynccontextmanager
async def session_server() -> AsyncIterator[Server]:
    async with connected_server(driver_url(EXTERNAL)) if EXTERNAL else embedded_server(durable=False) as server:
        yield server
