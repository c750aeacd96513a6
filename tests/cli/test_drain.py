"""What clients and peers see of a server that stops, and of one whose database does not answer."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app import clock
from tests.cli.processes import done, installation, postmaster, stepstream
from tests.cli.sink import Sink, sink


@asynccontextmanager
async def api(url: str, token: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
        yield http


async def start(http: httpx.AsyncClient, outside: Sink) -> str:
    """Start an execution that calls the outside; its id."""
    document = {
        "id": "wf_calling",
        "name": "Calling",
        "steps": [{"id": "call", "type": "http.request", "with": {"url": f"{outside.url}/call"}}],
    }
    (await http.post("/api/v1/workflows", json=document)).raise_for_status()
    started = (await http.post("/api/v1/workflows/wf_calling/execute")).raise_for_status()
    await outside.until(lambda: bool(outside.held))
    return str(started.json()["id"])


async def sse_events(lines: AsyncIterator[str]) -> list[tuple[str, Any]]:
    """The named and unnamed events of a stream, to its end."""
    found, name = [], "message"
    async for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, json.loads(line.removeprefix("data: "))))
            name = "message"
    return found


async def test_a_stopping_server_tells_everybody_and_lets_what_runs_finish() -> None:
    """New requests and the balancer get 503, waiting ones their answer, streams their cursor, the step its time."""
    async with installation() as data_dir, sink() as outside:
        outside.hold("/call")
        async with stepstream("up", "--data-dir", data_dir, "--port", "0", **outside.environment) as process:
            url = await process.ready()
            token = (await done("token", "--data-dir", data_dir))[1].strip()
            async with api(url, token) as http:
                execution_id = await start(http, outside)
                record = f"/api/v1/executions/{execution_id}"
                waiting = asyncio.create_task(http.get(record, headers={"Prefer": "wait=60"}))
                events = http.stream("GET", f"{record}/events", headers={"Accept": "text/event-stream"})
                socket = connect(
                    f"ws{url[4:]}{record}/stream", additional_headers={"Authorization": f"Bearer {token}"}, proxy=None
                )
                async with events as stream, socket:
                    lines = stream.aiter_lines()
                    while "step_started" not in await anext(lines):
                        pass
                    cursor = 0
                    while cursor < 3:
                        cursor = json.loads(await socket.connection.recv())["seq"]
                    process.send(signal.SIGTERM)
                    streamed = await sse_events(lines)
                    await _is_told_to_go(http)
                    with pytest.raises(InvalidStatus) as refused:
                        await connect(f"ws{url[4:]}{record}/stream", proxy=None)
                    assert refused.value.response.status_code == 503
                    assert (await waiting).json()["status"] == "RUNNING"
                    assert streamed[-1][0] == "server.draining"
                    with pytest.raises(ConnectionClosed):
                        await socket.connection.recv()
                    assert (socket.connection.close_code, streamed[-1][1]) == (1012, {"after": cursor})
                    assert str(socket.connection.close_reason).endswith(str(cursor))
                outside.release()
            assert await process.ends() == 0
        assert outside.effects == {"/call": 1}
        async with stepstream("up", "--data-dir", data_dir, "--port", "0", **outside.environment) as process:
            async with api(await process.ready(), token) as http:
                assert (await http.get(record)).json()["status"] == "COMPLETED"
            assert await process.stops() == 0


async def _is_told_to_go(http: httpx.AsyncClient) -> None:
    refused = [await http.get("/api/v1/workflows"), await http.post("/api/v1/workflows/wf_calling/execute")]
    for answer in refused:
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "draining", "1")
    assert (await http.get("/health/live")).status_code == 200
    ready = await http.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")


async def test_what_does_not_end_within_the_budget_is_handed_over() -> None:
    """The second process, on the same database, has the execution before its lease would have ended."""
    async with installation() as data_dir, sink() as outside:
        outside.hold("/call")
        brief = {"STEPSTREAM_DRAIN_BUDGET": "0.2", "STEPSTREAM_LEASE_TTL": "600"} | outside.environment
        arguments = ("up", "--data-dir", data_dir, "--port", "0")
        async with stepstream(*arguments, **brief) as first, stepstream(*arguments, **brief) as second:
            url = await first.ready()
            token = (await done("token", "--data-dir", data_dir))[1].strip()
            async with api(url, token) as http:
                execution_id = await start(http, outside)
            other = await second.ready()
            assert await first.stops() == 0
            assert "executions_handed_over" in first.text
            outside.release()
            async with api(other, token) as http:
                ended = await http.get(f"/api/v1/executions/{execution_id}", headers={"Prefer": "wait=60"})
            assert ended.json()["status"] == "COMPLETED"
            assert await second.stops() == 0


async def test_a_hung_database_is_told_in_time_while_the_process_stays_lively() -> None:
    async with installation() as data_dir:
        async with stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
            url = await process.ready()
            async with httpx.AsyncClient(base_url=url, timeout=60) as http:
                assert (await http.get("/health/ready")).status_code == 200
                with hung(postmaster(data_dir)):
                    asked = clock.monotonic()
                    looks = [asyncio.create_task(http.get("/health/ready")) for _ in range(20)]
                    alive = [await _seconds(http, "/health/live") for _ in range(20)]
                    for look in looks:
                        answer = await look
                        assert (answer.status_code, answer.json()["status"]) == (503, "database_unavailable")
                    assert clock.monotonic() - asked < 3
                    assert sorted(alive)[10] < 0.05
                    assert await _seconds(http, "/metrics") < 5
                await _until_ready(http)
            assert await process.stops() == 0


async def _seconds(http: httpx.AsyncClient, path: str) -> float:
    before = clock.monotonic()
    (await http.get(path)).raise_for_status()
    return clock.monotonic() - before


async def _until_ready(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while (await http.get("/health/ready")).status_code != 200:
            pass


class hung:  # noqa: N801 - a block
    """Postgres stands still inside the block, with every backend."""

    def __init__(self, pid: int | None) -> None:
        parent = psutil.Process(pid)
        self._processes = [parent, *parent.children(recursive=True)]

    def __enter__(self) -> None:
        for process in self._processes:
            process.suspend()

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.resume()
