"""The instruments of chaos do what they say: a fault that is not one would prove nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from app.db.engines import DriverConnection, connect
from tests.chaos.cluster import Cluster, cluster
from tests.chaos.proxy import Proxy, proxy


@pytest.fixture(scope="module")
async def deployment() -> AsyncIterator[Cluster]:
    async with cluster(apps=1) as made:
        yield made


@pytest.fixture
async def way(deployment: Cluster) -> AsyncIterator[Proxy]:
    async with proxy(deployment.postgres.socket) as made, deployment.postgres.connected() as direct:
        await direct.execute("CREATE TABLE marks (n int)")
        yield made
        await direct.execute("DROP TABLE marks")


@asynccontextmanager
async def through(deployment: Cluster, way: Proxy, name: str = "test") -> AsyncIterator[DriverConnection]:
    connection = await connect(deployment.database_url(way), name)
    try:
        yield connection
    finally:
        connection.terminate()


async def marks(deployment: Cluster) -> int:
    async with deployment.postgres.connected() as direct:
        return int(await direct.fetchval("SELECT count(*) FROM marks"))


async def test_a_lost_answer_leaves_the_statement_done(deployment: Cluster, way: Proxy) -> None:
    async with through(deployment, way) as connection:
        loss = way.lose("INSERT INTO marks", skip=1)
        await connection.fetch("INSERT INTO marks VALUES ($1)", 1)
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await connection.fetch("INSERT INTO marks VALUES ($1)", 2)
    assert (loss.hits, await marks(deployment)) == (1, 2)


async def test_a_lost_question_leaves_it_undone(deployment: Cluster, way: Proxy) -> None:
    async with through(deployment, way) as connection:
        loss = way.lose("INSERT", "question")
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await connection.execute("INSERT INTO marks VALUES (1)")
    assert (loss.hits, await marks(deployment)) == (1, 0)


async def test_faults_are_for_one_kind_of_connection(deployment: Cluster, way: Proxy) -> None:
    async with through(deployment, way, "here") as here, through(deployment, way, "there") as there:
        assert way.applications == ["here", "there"]
        assert way.cut("there") == 1
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await there.fetchval("SELECT 1")
        way.darken("there")
        assert await here.fetchval("SELECT 1") == 1


async def test_what_was_kept_in_the_dark_comes_through_after_it(deployment: Cluster, way: Proxy) -> None:
    async with through(deployment, way) as connection:
        way.darken()
        asked = asyncio.create_task(connection.fetchval("SELECT 7"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asked), 0.2)
        way.heal()
        assert await asked == 7


async def test_a_held_statement_waits_until_it_is_released(deployment: Cluster, way: Proxy) -> None:
    async with through(deployment, way) as connection:
        hold = way.lose("INSERT", "neither")
        asked = asyncio.create_task(connection.execute("INSERT INTO marks VALUES (1)"))
        await hold.hit.wait()
        assert await marks(deployment) == 0
        hold.released.set()
        await asked
    assert await marks(deployment) == 1


async def test_a_slow_way_takes_its_time_and_keeps_the_order(deployment: Cluster, way: Proxy) -> None:
    async with through(deployment, way) as connection:
        way.slow_down(latency=0.05, bandwidth=1 << 20)
        began = time.monotonic()
        text = "x" * (1 << 18)
        assert await connection.fetchval("SELECT $1::text", text) == text
        assert time.monotonic() - began > 0.5


async def test_an_app_serves_is_killed_and_serves_again(deployment: Cluster) -> None:
    (app,) = deployment.apps
    for _ in range(2):
        await app.start()
        async with deployment.http() as http:
            assert (await http.get(f"{app.api}/workflows")).status_code == 200
        await app.kill()
    await app.start()
    assert await app.stop() == 0
    await deployment.postgres.crash()
    await deployment.postgres.start()
    assert deployment.postgres.pid > 0
