"""What the database refuses reaches people in the words of the domain, and bugs stay bugs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import Executable, exc, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engines import api_engine, connect
from app.db.errors import domain_error, sqlstate, translated
from app.db.tables import organizations, workflows
from app.domain.errors import Conflict, ConnectionLost, NotFound, Problems, StepstreamError, Unavailable
from tests.database import Database

DO_RAISE = "DO $$ BEGIN RAISE EXCEPTION 'made for the test' USING ERRCODE = '{}'; END $$"
MEANING: dict[str, tuple[type[StepstreamError], str]] = {
    **dict.fromkeys(("22P05", "22021", "22P02", "22003", "22000", "54001"), (Problems, "value_not_storable")),
    "23505": (Conflict, "already_exists"),
    "23503": (Problems, "unknown_reference"),
    "42501": (NotFound, "not_found"),
    "SS001": (Conflict, "invalid_state"),
    "SS002": (Conflict, "invalid_state"),
    **dict.fromkeys(("40001", "40P01", "55P03", "57014", "25P03", "25P04"), (Unavailable, "database_busy")),
    "53100": (Unavailable, "storage_full"),
    **dict.fromkeys(
        ("08006", "53200", "53300", "57P01", "57P03", "25006", "28P01", "3D000", "58030"),
        (Unavailable, "database_unavailable"),
    ),
}
BUGS = ("42601", "42703", "42P01", "23502", "23514", "22012", "P0001", "XX000")


@pytest.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    opened = api_engine(database.admin_url, pool_size=1)
    yield opened
    await opened.dispose()


async def run(engine: AsyncEngine, *statements: Executable) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(statement)


@pytest.mark.parametrize(("state", "meaning"), MEANING.items())
async def test_each_state_has_its_meaning_however_it_arrives(
    database: Database, engine: AsyncEngine, state: str, meaning: tuple[type[StepstreamError], str]
) -> None:
    with pytest.raises(meaning[0]) as bare, translated():
        await database.execute(DO_RAISE.format(state))
    with pytest.raises(meaning[0]) as wrapped, translated():
        await run(engine, text(DO_RAISE.format(state)))
    assert bare.value.error_code == wrapped.value.error_code == meaning[1]
    assert sqlstate(bare.value.__cause__ or bare.value) == sqlstate(wrapped.value.__cause__ or wrapped.value) == state


@pytest.mark.parametrize("state", BUGS)
async def test_a_bug_of_ours_is_not_dressed_up(database: Database, engine: AsyncEngine, state: str) -> None:
    with pytest.raises(asyncpg.PostgresError), translated():
        await database.execute(DO_RAISE.format(state))
    with pytest.raises(exc.DBAPIError), translated():
        await run(engine, text(DO_RAISE.format(state)))


@pytest.mark.parametrize("value", ["NUL \x00", "lone \ud800 surrogate"])
async def test_text_that_postgres_cannot_hold_is_the_senders_problem(engine: AsyncEngine, value: str) -> None:
    with pytest.raises(Problems) as caught, translated():
        await run(engine, insert(organizations).values(id="org", name=value))
    assert caught.value.error_code == "value_not_storable"


async def test_a_number_beyond_its_column_is_the_senders_problem(database: Database, engine: AsyncEngine) -> None:
    await database.add_tenant("org_a")
    with pytest.raises(Problems), translated():
        await run(engine, workflows.update().values(execution_count=1 << 63))
    with pytest.raises(Problems), translated():
        await database.execute("UPDATE workflows SET execution_count = $1", 1 << 63)


async def test_an_argument_of_the_wrong_type_is_a_bug(database: Database) -> None:
    with pytest.raises(asyncpg.DataError), translated():
        await database.execute("SELECT $1::int", "one")


async def test_no_value_is_quoted_in_an_error(engine: AsyncEngine) -> None:
    statement = insert(organizations).values(id="org", name="a secret name")
    with pytest.raises(Conflict) as caught, translated():
        await run(engine, statement, statement)
    assert "secret name" not in f"{caught.value} {caught.value.__cause__}"


async def test_an_exhausted_pool_is_busy(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.pool, "_timeout", 0.01)
    async with engine.connect():
        with pytest.raises(Unavailable) as caught, translated():
            await engine.connect()
    assert caught.value.error_code == "database_busy"


async def test_a_connection_that_dies_is_unavailable_and_the_pool_recovers(
    database: Database, engine: AsyncEngine
) -> None:
    async with engine.connect() as connection:
        pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await database.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
        with pytest.raises(Unavailable) as caught, translated():
            await connection.execute(text("SELECT 1"))
    assert type(caught.value) is ConnectionLost
    assert caught.value.error_code == "database_unavailable"
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1


async def test_a_pooled_connection_that_has_gone_silent_is_replaced_within_moments(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.engines.PING_TIMEOUT", 0.2)
    async with engine.connect() as connection:
        silent = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    os.kill(silent, signal.SIGSTOP)
    try:
        async with asyncio.timeout(10), engine.connect() as connection:
            assert (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one() != silent
    finally:
        os.kill(silent, signal.SIGCONT)


async def test_a_closed_driver_connection_is_unavailable(database: Database) -> None:
    async with database.connected() as connection:
        await connection.close()
        with pytest.raises(Unavailable), translated():
            await connection.execute("SELECT 1")


def test_what_the_pool_calls_a_lost_connection_is_unavailable() -> None:
    unheard_of = Exception("the driver found its own words for it")
    assert isinstance(
        domain_error(exc.DBAPIError("SELECT 1", None, unheard_of, connection_invalidated=True)), Unavailable
    )
    assert domain_error(exc.DBAPIError("SELECT 1", None, unheard_of)) is None


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    engine = api_engine("postgresql://somebody:secret@/nowhere?host=/nonexistent", pool_size=1)
    with pytest.raises(Unavailable) as caught, translated():
        await engine.connect()
    await engine.dispose()
    assert caught.value.error_code == "database_unavailable"
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"


async def test_an_answer_that_does_not_come_is_unavailable(database: Database) -> None:
    connection = await connect(database.admin_url, "test", command_timeout=0.05)
    with pytest.raises(Unavailable), translated():
        await connection.execute("SELECT pg_sleep(60)")
    await connection.close()


async def test_what_is_no_error_of_the_database_passes_through() -> None:
    for error in (ValueError("x"), Conflict("x"), KeyError("x")):
        with pytest.raises(type(error)) as caught, translated():
            raise error
        assert caught.value is error
    with pytest.raises(asyncio.CancelledError), translated():
        raise asyncio.CancelledError
    assert domain_error(ValueError("x")) is None
