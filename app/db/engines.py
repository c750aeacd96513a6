"""Connections: a bounded pool for each kind of request, and dedicated ones for who must never queue for a pool.

Every wait has an end: for a connection, for a pool's slot, for an answer. A bare asyncpg opens all of them, so that one
URL form and one set of timeouts serve both.
"""

import asyncio
from contextlib import suppress
from typing import Any, TypeAlias

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool
from sqlalchemy.util import await_only

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 20.0
POOL_TIMEOUT = 2.0
PING_TIMEOUT = 2.0
CLOSE_TIMEOUT = 2.0
POOL_RECYCLE = 1800
AUTH_POOL_SIZE = 4
# Seconds of silence before the server probes a peer, milliseconds before it gives one up; sockets ignore both.
_KEEPALIVE = {"tcp_keepalives_idle": "20", "tcp_user_timeout": "20000"}

DriverConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def connect(
    url: str, application_name: str, *, command_timeout: float | None = COMMAND_TIMEOUT, **server_settings: str
) -> DriverConnection:
    """A dedicated connection, for the caller to close. Raises what asyncpg raises: see `app.db.errors`.

    `command_timeout` is in seconds and bounds the wait for each answer; None waits for ever.
    """
    return await asyncpg.connect(
        url,
        timeout=CONNECT_TIMEOUT,
        command_timeout=command_timeout,
        server_settings={"application_name": application_name, **_KEEPALIVE, **server_settings},
    )


def api_engine(url: str, pool_size: int) -> AsyncEngine:
    """The pool of the request handlers."""
    return _pool(url, "stepstream-api", pool_size)


def auth_engine(url: str, pool_size: int = AUTH_POOL_SIZE) -> AsyncEngine:
    """The pool of who looks up credentials: its own, so that busy handlers never keep anybody from signing in."""
    return _pool(url, "stepstream-auth", pool_size)


def single_connection_engine(url: str, application_name: str) -> AsyncEngine:
    """An engine without a pool or a command timeout, for work that may take long: migrations."""

    async def open_connection() -> DriverConnection:
        patience = {"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0"}
        return await connect(url, application_name, command_timeout=None, **patience)

    return create_async_engine("postgresql+asyncpg://", async_creator=open_connection, poolclass=NullPool)


async def close_pool(pool: AsyncEngine) -> None:
    """Close a pool's connections; those that do not say farewell within a moment are left to the end of the process."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await pool.dispose()


def _pool(url: str, application_name: str, size: int) -> AsyncEngine:
    async def open_connection() -> DriverConnection:
        return await connect(url, application_name)

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=open_connection,
        pool_size=size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        pool_recycle=POOL_RECYCLE,
        # Statements' values are people's data: they belong in no error message.
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "checkout", _demand_life)
    return engine


def _demand_life(adapted: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Raise what makes the pool connect anew if a connection that was used before does not answer within a moment.

    SQLAlchemy's own `pool_pre_ping` takes three round trips, each of which may last as long as any command.
    """
    if record.info.setdefault("is_new", True):
        record.info["is_new"] = False
        return
    connection: DriverConnection = adapted.driver_connection
    try:
        await_only(connection.execute("SELECT", timeout=PING_TIMEOUT))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        connection.terminate()
        raise InvalidatePoolError from error
