"""A dedicated connection mends itself, and nobody waits for it longer than the database makes one wait."""

import asyncio
from functools import partial

import asyncpg
import pytest

from app.db.engines import connect
from app.db.link import PIN_PLANS, Link
from app.db.urls import ENGINE
from app.domain.errors import Unavailable
from tests.engine.harness import eventually
from tests.engine.kit import Wire

ONE = "SELECT 1 AS one"
SLEEP = "SELECT pg_sleep(100)"


@pytest.fixture
async def link(database):
    link = Link(partial(connect, database.role_url(ENGINE), "test-link"), PIN_PLANS)
    yield link
    await link.close()


async def sessions(database, state="idle"):
    return await database.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test-link' AND state = $1 AND datname = $2",
        state, database.name,
    )  # fmt: skip


async def kill(database):
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test-link' AND datname = $1",
        database.name,
    )


async def test_plans_are_pinned(link):
    rows = await link.fetch("SELECT current_setting('plan_cache_mode') AS mode, current_setting('jit') AS jit")
    assert dict(rows[0]) == {"mode": "force_generic_plan", "jit": "off"}


async def test_a_connection_lost_while_idle_is_not_noticed(link, database):
    await link.fetch(ONE)
    await kill(database)
    await eventually(lambda: closed(link))
    assert (await link.fetch(ONE))[0]["one"] == 1


async def test_a_farewell_whose_connection_has_not_ended_yet_is_unavailable(link):
    await link.fetch(ONE)
    link._connection._protocol.data_received(
        b"E\x00\x00\x00\x23SFATAL\x00VFATAL\x00C57P01\x00Mthe end\x00\x00"  # and nothing behind it
    )
    with pytest.raises(Unavailable):
        await link.fetch(ONE)
    assert (await link.fetch(ONE))[0]["one"] == 1


async def closed(link):
    return link._connection.is_closed()


async def test_a_connection_lost_under_a_statement_is_unavailable_and_made_anew(link, database):
    sleeping = asyncio.ensure_future(link.fetch(SLEEP))
    await eventually(lambda: sessions(database, "active"))
    await kill(database)
    with pytest.raises(Unavailable):
        await sleeping
    assert (await link.fetch(ONE))[0]["one"] == 1


async def test_a_read_is_asked_again_once(database):
    wire = Wire(database.role_url(ENGINE))
    link = Link(wire.connect)
    fault = wire.lose(ONE, after=False)
    assert (await link.read(ONE))[0]["one"] == 1
    assert fault.hits == 1
    wire.lose(ONE, after=False, times=2)
    with pytest.raises(Unavailable):
        await link.read(ONE)
    await link.close()


async def test_a_cancelled_statement_leaves_nothing_behind_for_the_next(link, database):
    sleeping = asyncio.ensure_future(link.fetch(SLEEP))
    await eventually(lambda: sessions(database, "active"))
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    assert (await link.fetch(ONE))[0]["one"] == 1


async def test_a_database_that_is_not_there_is_unavailable():
    async def refuse():
        raise ConnectionRefusedError

    with pytest.raises(Unavailable):
        await Link(refuse).fetch(ONE)


async def test_who_queues_behind_a_lost_statement_shares_its_fate():
    tries = []

    async def never():
        tries.append(1)
        await asyncio.sleep(0)
        raise TimeoutError

    link = Link(never)
    answers = await asyncio.gather(*(link.fetch(ONE) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert len(tries) == 1
    with pytest.raises(Unavailable):
        await link.fetch(ONE)
    assert len(tries) == 2


async def test_an_error_of_the_statement_is_the_drivers_own(link):
    with pytest.raises(asyncpg.UndefinedTableError):
        await link.fetch("SELECT * FROM no_such_table")
    with pytest.raises(asyncpg.DataError):
        await link.fetch("SELECT $1::text", "a\x00b")
    assert (await link.fetch(ONE))[0]["one"] == 1


async def test_a_plan_that_a_migration_has_overtaken_fails_once_at_most(link, database):
    everything = "SELECT * FROM workers"
    await link.fetch(everything)
    await database.execute("ALTER TABLE workers ADD COLUMN later int")
    with pytest.raises(asyncpg.PostgresError):
        await link.fetch(everything)
    assert await link.fetch(everything) == []


async def test_closed_it_stays_closed(link, database):
    await link.fetch(ONE)
    await link.close()
    await link.close()
    with pytest.raises(Unavailable):
        await link.fetch(ONE)
    assert await eventually(lambda: none_left(database))


async def none_left(database):
    return await sessions(database) == 0


async def test_closing_cuts_a_statement_under_way(link, database):
    sleeping = asyncio.ensure_future(link.fetch(SLEEP))
    await eventually(lambda: sessions(database, "active"))
    await link.close()
    with pytest.raises(Unavailable):
        await sleeping
