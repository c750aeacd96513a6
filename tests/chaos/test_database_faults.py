"""What becomes of real servers while their database, or the way to it, misbehaves: one fault at a time, then healed.

No step fails because of it, nothing that was answered with 201 is lost, nobody waits longer than the limits that there
are for waiting, and the process says what is the matter.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import psutil
import pytest

from app.db.engines import COMMAND_TIMEOUT
from tests.chaos.adding import adding
from tests.chaos.cluster import LEASE_TTL, App, Cluster, cluster
from tests.cli.sink import Sink, sink

LOCK_TIMEOUT, POOL_WAIT, POOL_SIZE = 3.0, 2.0, 8
STOP_LIMIT = 30.0
SLACK = 3.0
"""Seconds that a busy machine may add to a limit."""
ADDING = adding(nap="200ms")


def client(deployment: Cluster, app: App) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {deployment.token}"}
    return httpx.AsyncClient(base_url=f"{app.url}/api/v1", headers=headers, timeout=60)


@pytest.fixture(scope="module")
async def outside() -> AsyncIterator[Sink]:
    async with sink() as made:
        yield made


@pytest.fixture(scope="module")
async def deployment(outside: Sink) -> AsyncIterator[Cluster]:
    async with cluster(apps=2, **outside.environment) as made:
        await asyncio.gather(*(app.start() for app in made.apps))
        calling = {
            "id": "wf_calling",
            "name": "Calling",
            "steps": [{"id": "call", "type": "http.request", "with": {"url": f"{outside.url}/${{{{ input }}}}"}}],
        }
        async with client(made, made.apps[0]) as http:
            for document in (ADDING, calling):
                (await http.post("/workflows", json=document)).raise_for_status()
        yield made


@pytest.fixture
def app(deployment: Cluster) -> App:
    return deployment.apps[0]


@pytest.fixture
async def http(deployment: Cluster, app: App) -> AsyncIterator[httpx.AsyncClient]:
    async with client(deployment, app) as made:
        yield made


async def start(http: httpx.AsyncClient, workflow: str, value: Any, key: str = "") -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await http.post("/executions", json={"workflow_id": workflow, "input": value}, headers=headers)


async def accepted(http: httpx.AsyncClient, workflow: str, value: Any, key: str) -> str:
    """Start an execution, again and again until it is accepted; its id."""
    while (answer := await start(http, workflow, value, key)).status_code != 201:
        assert answer.status_code == 503, answer.text
        assert answer.json()["code"] in {"database_unavailable", "database_busy"}
    return str(answer.json()["id"])


async def ends(http: httpx.AsyncClient, execution_id: str) -> dict[str, Any]:
    record = (await http.get(f"/executions/{execution_id}", headers={"Prefer": "wait=25"})).json()
    assert record["status"] == "COMPLETED", record
    return dict(record)


async def all_right(http: httpx.AsyncClient, ids: list[str]) -> None:
    """Each execution has added two to its number, its place in the list."""
    for number, execution_id in enumerate(ids):
        assert (await ends(http, execution_id))["output"] == number + 2


async def took(work: Awaitable[httpx.Response]) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    return await work, time.monotonic() - began


@asynccontextmanager
async def locked(deployment: Cluster, table: str) -> AsyncIterator[None]:
    """Nobody else gets at a table inside the block."""
    async with deployment.postgres.connected() as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


async def test_connections_that_die_all_the_time_are_hidden(deployment: Cluster, http: httpx.AsyncClient) -> None:
    over, killed = asyncio.Event(), 0

    async def kill() -> None:
        nonlocal killed
        async with deployment.postgres.connected() as connection:
            while not over.is_set():
                killed += await connection.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity "
                    "WHERE usename LIKE 'stepstream%' ORDER BY random() LIMIT 1) one"
                )
                await connection.execute("SELECT pg_sleep(0.2)")

    killing = asyncio.create_task(kill())
    try:
        ids: list[str] = []
        while killed < 10:
            ids.append(await accepted(http, "wf_adding", len(ids), f"dying-{len(ids)}"))
        await all_right(http, ids)
    finally:
        over.set()
        await killing


async def test_a_locked_table_makes_readers_wait_for_seconds_and_no_run_fail(
    deployment: Cluster, http: httpx.AsyncClient
) -> None:
    ids = [await accepted(http, "wf_adding", number, f"locked-{number}") for number in range(5)]
    async with locked(deployment, "executions"):
        answer, seconds = await took(http.get(f"/executions/{ids[0]}"))
        assert (answer.status_code, answer.json()["code"]) == (503, "database_busy")
        assert LOCK_TIMEOUT - 0.5 < seconds < LOCK_TIMEOUT + SLACK
    await all_right(http, ids)


async def test_requests_that_use_up_their_pool_hold_up_neither_runs_nor_leases(
    deployment: Cluster, app: App, http: httpx.AsyncClient
) -> None:
    async with deployment.postgres.connected() as connection:
        leases = "SELECT id FROM workers ORDER BY id"
        before = await connection.fetch(leases)
        ids = [await accepted(http, "wf_adding", number, f"crowd-{number}") for number in range(5)]
        async with locked(deployment, "audit_logs"):
            crowd = [asyncio.create_task(took(http.get("/audit-logs"))) for _ in range(4 * POOL_SIZE)]
            alive, seconds = await took(http.get(f"{app.url}/health/live"))
            assert (alive.status_code, seconds < 1.0) == (200, True)
            for answer, seconds in await asyncio.gather(*crowd):
                assert (answer.status_code, answer.json()["code"]) == (503, "database_busy")
                assert seconds < POOL_WAIT + LOCK_TIMEOUT + SLACK
        await all_right(http, ids)
        assert await connection.fetch(leases) == before


async def test_a_doorbell_that_hears_nothing_delays_a_stream_by_a_second(deployment: Cluster, outside: Sink) -> None:
    """The stream is read from one process while the other runs the execution, and both doorbells are dead."""
    outside.hold("/unheard")
    owner, reader = deployment.apps
    for app in deployment.apps:
        app.proxy.darken("stepstream-doorbell")
    try:
        async with client(deployment, owner) as one, client(deployment, reader) as other:
            execution_id = str((await start(one, "wf_calling", "unheard")).json()["id"])
            await outside.until(lambda: "/unheard" in outside.held)
            headers = {"Accept": "text/event-stream"}
            async with other.stream("GET", f"/executions/{execution_id}/events", headers=headers) as answer:
                lines = answer.aiter_lines()
                heard = [await event(lines)]
                while heard[-1]["type"] != "step_started":
                    heard.append(await event(lines))
                outside.release()
                async with asyncio.timeout(2.0 + SLACK):
                    while heard[-1]["type"] != "execution_completed":
                        heard.append(await event(lines))
            assert [said["seq"] for said in heard] == list(range(1, len(heard) + 1))
    finally:
        for app in deployment.apps:
            app.proxy.heal()


async def event(lines: AsyncIterator[str]) -> dict[str, Any]:
    async for line in lines:
        if line.startswith("data: "):
            return dict(json.loads(line.removeprefix("data: ")))
    raise AssertionError("the stream ended")


async def test_who_loses_sight_of_the_database_lets_go_before_another_takes_over(
    deployment: Cluster, outside: Sink
) -> None:
    outside.hold("/dark")
    async with AsyncExitStack() as stack, deployment.postgres.connected() as connection:
        clients = [await stack.enter_async_context(client(deployment, app)) for app in deployment.apps]
        execution_id = str((await start(clients[0], "wf_calling", "dark")).json()["id"])
        await outside.until(lambda: outside.effects["/dark"] == 1)
        pid = await connection.fetchval(
            "SELECT pid FROM workers WHERE id = (SELECT owner FROM executions WHERE id = $1)", execution_id
        )
        blind, seeing = sorted(deployment.apps, key=lambda app: app.process.pid != pid)
        blind.proxy.darken()
        went_dark = time.monotonic()
        try:
            await outside.until(lambda: outside.effects["/dark"] == 2)
            assert time.monotonic() - went_dark > LEASE_TTL / 2
        finally:
            blind.proxy.heal()
        outside.release()
        other = clients[deployment.apps.index(seeing)]
        assert (await ends(other, execution_id))["status"] == "COMPLETED"
        await blind.process.says("lease_lost")
        assert (await start(clients[deployment.apps.index(blind)], "wf_adding", 0)).status_code == 201


async def test_a_database_without_room_for_connections_is_told_as_such(
    deployment: Cluster, http: httpx.AsyncClient
) -> None:
    third = App(3, deployment.apps[0].proxy, deployment, deployment.apps[0].warm)
    async with deployment.postgres.connected() as connection:
        await connection.execute("ALTER ROLE stepstream_api CONNECTION LIMIT 1")
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'stepstream_api'"
            )
            crowd = await asyncio.gather(*(http.get("/workflows") for _ in range(POOL_SIZE)))
            refused = [answer.json() for answer in crowd if answer.status_code != 200]
            assert {problem["code"] for problem in refused} == {"database_unavailable"}
            await connection.execute("ALTER ROLE stepstream_api CONNECTION LIMIT 0")
            await third.launch()
            assert await third.process.ends() == 1
            assert "takes no more connections" in third.process.text
            assert "Traceback" not in third.process.text
        finally:
            await connection.execute("ALTER ROLE stepstream_api CONNECTION LIMIT -1")
    assert (await http.get("/workflows")).status_code == 200


@pytest.mark.chaos
async def test_a_database_that_stands_still_stops_nothing_else(
    deployment: Cluster, app: App, http: httpx.AsyncClient
) -> None:
    ids = [await accepted(http, "wf_adding", number, f"still-{number}") for number in range(10)]
    server = psutil.Process(deployment.postgres.pid)
    processes = [server, *server.children()]
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        asked = [asyncio.create_task(took(start(http, "wf_adding", 0))) for _ in range(3)]
        until = time.monotonic() + 10
        while time.monotonic() < until:
            answer, seconds = await took(http.get(f"{app.url}/health/live"))
            assert (answer.status_code, seconds < 1.0) == (200, True)
            await asyncio.sleep(0)
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)
    assert all(seconds < 10 + SLACK for _, seconds in await asyncio.gather(*asked))
    await all_right(http, ids)


@pytest.mark.chaos
async def test_on_a_dark_way_nobody_waits_longer_than_for_one_command(app: App, http: httpx.AsyncClient) -> None:
    app.proxy.darken()
    try:
        asked = [start(http, "wf_adding", 0), http.get("/workflows"), http.get("/executions"), http.get("/auth/me")]
        for answer, seconds in await asyncio.gather(*(took(request) for request in asked)):
            assert answer.status_code == 503
            assert seconds < COMMAND_TIMEOUT + SLACK
    finally:
        app.proxy.heal()


@pytest.mark.chaos
async def test_on_a_dark_way_a_process_stops_nevertheless(deployment: Cluster, app: App) -> None:
    """It says farewell to nobody who does not answer; its lease runs out."""
    third = App(3, app.proxy, deployment, app.warm)
    await third.start()
    async with client(deployment, third) as http:
        await asyncio.gather(*(http.get("/workflows") for _ in range(POOL_SIZE)))
    app.proxy.darken()
    try:
        began = time.monotonic()
        assert await third.stop() == 0
        assert time.monotonic() - began < STOP_LIMIT + SLACK
    finally:
        app.proxy.heal()
        await third.close()


@pytest.mark.chaos
@pytest.mark.parametrize("latency", [0.05, 0.2])
async def test_a_slow_way_costs_time_and_no_lease(
    deployment: Cluster, app: App, http: httpx.AsyncClient, latency: float
) -> None:
    """Four round trips fit into a third of the lease."""
    async with deployment.postgres.connected() as connection:
        while (await http.get(f"{app.url}/health/ready")).status_code != 200:  # healed a moment ago
            await asyncio.sleep(0)
        before = await connection.fetch("SELECT id FROM workers ORDER BY id")
        app.proxy.slow_down(latency, bandwidth=256 << 10)
        try:
            ids = [await accepted(http, "wf_adding", number, f"slow-{latency}-{number}") for number in range(3)]
            await all_right(http, ids)
        finally:
            app.proxy.heal()
        assert await connection.fetch("SELECT id FROM workers ORDER BY id") == before
