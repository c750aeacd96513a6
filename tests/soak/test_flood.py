"""Ten thousand executions in ten seconds: whoever is let in gets through, the rest are told early, memory is bounded.

Opt in with `-m soak`; `-s` shows the figures.
"""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import httpx
import psutil
import pytest

from app import clock
from tests.cli.processes import done, installation, stepstream, superuser_url
from tests.database import connected_server

EXECUTIONS = 10_000
SECONDS = 10.0
CONNECTIONS = 1_000
MEBIBYTE = 1 << 20
WORKFLOW = {
    "id": "wf_three",
    "name": "Three",
    "steps": [
        {"id": "a", "type": "set", "with": {"n": "${{ input.n }}"}},
        {"id": "b", "type": "set", "needs": ["a"], "with": {"n": "${{ steps.a.output.n }}"}},
        {"id": "c", "type": "set", "needs": ["b"], "with": {"n": "${{ steps.b.output.n }}"}},
    ],
    "output": "${{ steps.c.output.n }}",
}


@dataclass
class Flood:
    """What came of the requests."""

    port: int
    token: str
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    accepted: dict[str, int] = field(default_factory=dict)

    async def pour(self) -> None:
        began, numbers = clock.monotonic(), count()
        await asyncio.gather(*(self._client(began, numbers) for _ in range(CONNECTIONS)))

    async def _client(self, began: float, numbers: "count[int]") -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while (number := next(numbers)) < EXECUTIONS:
            due = began + number * SECONDS / EXECUTIONS
            if (early := due - clock.monotonic()) > 0:
                await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=early)
            sent = clock.monotonic()
            writer.write(self._request(number))
            status, body = await _answer(reader)
            self.statuses[status] += 1
            if status != 201:
                self.codes[json.loads(body)["code"]] += 1
            if status == 201:
                self.seconds.append(clock.monotonic() - sent)
                self.accepted[json.loads(body)["id"]] = number
        writer.close()
        await writer.wait_closed()

    def _request(self, number: int) -> bytes:
        body = json.dumps({"workflow_id": "wf_three", "input": {"n": number}}).encode()
        head = (
            f"POST /api/v1/executions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head.split(b" ")[1]), await reader.readexactly(length)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_ten_thousand_executions_in_ten_seconds_end_well() -> None:
    async with installation() as data_dir, stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
        url = await process.ready()
        flood = Flood(int(url.rpartition(":")[2]), (await done("token", "--data-dir", data_dir))[1].strip())
        headers = {"Authorization": f"Bearer {flood.token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
            (await http.post("/api/v1/workflows", json=WORKFLOW)).raise_for_status()
        largest = asyncio.create_task(_largest_rss(process.pid))
        began = clock.monotonic()
        await flood.pour()
        poured = clock.monotonic() - began
        async with connected_server(superuser_url(data_dir)) as server:
            running = len(flood.accepted)
            while running:
                running = await server.connection.fetchval(
                    "SELECT count(*) FROM executions WHERE status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')"
                )
            ended = clock.monotonic() - began
            rows = await server.connection.fetch("SELECT id, status, output FROM executions")
        largest.cancel()
        await asyncio.wait([largest])
        peak = max(_PEAKS) / MEBIBYTE
        flood.seconds.sort()
        p99 = flood.seconds[len(flood.seconds) * 99 // 100]
        cpu = sum(psutil.Process(process.pid).cpu_times()[:2])
        print(f"\n{dict(flood.statuses)} {dict(flood.codes)} in {poured:.1f} s, p99 of 201 {p99:.2f} s")
        print(f"all ended after {ended:.1f} s, {peak:.0f} MiB at most, {cpu:.1f} s of CPU")
        assert set(flood.statuses) <= {201, 429, 503}
        assert {row["id"]: (row["status"], row["output"]) for row in rows} == {
            execution_id: ("COMPLETED", str(number)) for execution_id, number in flood.accepted.items()
        }
        assert peak < 1024
        assert "lease_lost" not in process.text
        assert await process.stops() == 0


_PEAKS: list[int] = []


async def _largest_rss(pid: int) -> None:
    process = psutil.Process(pid)
    while True:
        _PEAKS.append(process.memory_info().rss)
        await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.2)
