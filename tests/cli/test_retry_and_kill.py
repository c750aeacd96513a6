"""A repair that is killed in the middle is repaired again, and again; what had its effect has it once."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.cli.processes import Process, done, installation, stepstream
from tests.cli.sink import Sink, sink


def workflow(url: str) -> dict[str, Any]:
    def call(step_id: str, path: str, *needs: str, method: str = "POST", **more: Any) -> dict[str, Any]:
        target = {"url": f"{url}/{path}", "method": method}
        return {"id": step_id, "type": "http.request", "needs": list(needs), "with": target} | more

    steps = [
        call("look", "look", method="GET"),
        call("order", "order", "look"),
        call("each", "each/${{ item }}", "order", for_each=[0, 1, 2, 3, 4, 5], max_parallel=1),
        call("last", "last", "each"),
    ]
    output = {"each": "${{ steps.each.output.map(answer, answer.status) }}", "last": "${{ steps.last.output.status }}"}
    return {"id": "wf_repaired", "name": "Repaired", "steps": steps, "output": output}


class Client:
    """Speaks to whichever process is up."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def post(self, path: str, body: Any) -> dict[str, Any]:
        answer = await self._http.post(path, json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def ended(self, execution_id: str) -> dict[str, Any]:
        detail = (await self._http.get(f"/executions/{execution_id}", headers={"Prefer": "wait=60"})).json()
        assert detail["completed_at"], detail
        return detail

    async def get(self, path: str) -> dict[str, Any]:
        return (await self._http.get(path)).json()


@asynccontextmanager
async def up(data_dir: Path, outside: Sink) -> AsyncIterator[tuple[Process, Client]]:
    """A process on the data directory, and a client of it."""
    async with stepstream("up", "--data-dir", data_dir, "--port", "0", **outside.environment) as process:
        url = await process.ready()
        token = (await done("token", "--data-dir", data_dir))[1].strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=90) as http:
            yield process, Client(http)


async def held_and_killed(outside: Sink, process: Process, path: str) -> None:
    """Kill the process while the sink keeps its answer for a path back."""
    await outside.until(lambda: path in outside.held)
    await process.stops(signal.SIGKILL)
    outside.release()
    await outside.quiet()


async def test_a_chain_of_repairs_under_kills_does_nothing_twice() -> None:
    async with installation() as data_dir, sink() as outside:
        outside.status = lambda path: 422 if path == "/each/3" else 200
        async with up(data_dir, outside) as (process, client):
            await client.post("/workflows", workflow(outside.url))
            first = (await client.post("/executions", {"workflow_id": "wf_repaired"}))["id"]
            assert (await client.ended(first))["error_code"] == "http_status"
            outside.status = lambda _path: 200
            outside.hold("/each/3")
            second = (await client.post(f"/executions/{first}/retry", {}))["id"]
            await held_and_killed(outside, process, "/each/3")
        async with up(data_dir, outside) as (process, client):
            assert (await client.ended(second))["error_code"] == "outcome_unknown"
            outside.hold("/last")
            third = (await client.post(f"/executions/{second}/retry", {}))["id"]
            await held_and_killed(outside, process, "/last")
        async with up(data_dir, outside) as (_, client):
            assert (await client.ended(third))["error_code"] == "outcome_unknown"
            fourth = (await client.post(f"/executions/{third}/retry", {}))["id"]
            detail = await client.ended(fourth)
            assert (detail["status"], detail["output"]) == ("COMPLETED", {"each": [200] * 6, "last": 200})
            reused = {step["id"]: step["reused_from"] for step in detail["steps"]}
            assert reused == {"look": first, "order": first, "each": third, "last": None}
            items = (await client.get(f"/executions/{third}/steps/each/items"))["data"]
            assert [item["reused_from"] for item in items[:4]] == [first, first, first, None]
            family = await client.get(f"/executions/{fourth}/lineage")
            chain = [(member["id"], member["retry_of"]) for member in family["data"]]
            assert chain == [(first, None), (second, first), (third, second), (fourth, third)]
            assert family["root_id"] == first
    repeated = {path: times for path, times in outside.effects.items() if times > 1}
    assert repeated == {"/each/3": 3, "/last": 2}, outside.effects
    posts = {path: keys for path, keys in outside.keys.items() if path != "/look"}
    assert len(posts) == 8
    assert all(len(keys) == 1 for keys in posts.values()), posts
    assert len(set.union(*posts.values())) == len(posts), "each request has a key of its own"
