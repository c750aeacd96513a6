"""Payloads are shown to who may read them alone, wherever records of runs are shown."""

from typing import Any

import httpx
import pytest

from tests.api.control_calls import PATH, add_approval, add_execution
from tests.api.workflow_calls import create

SECRET = "the-customers-name"
WORKFLOW: dict[str, Any] = {
    "name": "Echo",
    "steps": [
        {"id": "a", "type": "set", "with": {"said": "${{ input }}"}},
        {"id": "say", "type": "log", "needs": ["a"], "with": {"message": "${{ input }}"}},
        {"id": "each", "type": "set", "needs": ["a"], "for_each": ["${{ input }}"], "with": {"said": "${{ item }}"}},
    ],
}


async def key(client: httpx.AsyncClient, *scopes: str) -> str:
    made = await client.post("/api/v1/api-keys", json={"name": "bot", "scopes": list(scopes)})
    assert made.status_code == 201, made.text
    token: str = made.json()["key"]
    return token


async def ended(client: httpx.AsyncClient, workflow: dict[str, Any], value: str) -> str:
    run = await client.post(
        f"/api/v1/workflows/{workflow['id']}/execute", json={"input": value}, headers={"Prefer": "wait=20"}
    )
    assert run.json()["status"] == "COMPLETED", run.text
    execution_id: str = run.json()["id"]
    return execution_id


@pytest.fixture
async def narrow(live: Any, client: httpx.AsyncClient) -> Any:
    """Signed in with a key that may do much, but read no payloads."""
    scopes = ("executions.read", "executions.execute", "executions.control", "approvals.decide")
    async with live.http(await key(client, *scopes)) as signed_in:
        yield signed_in


async def test_no_answer_about_a_run_tells_payloads_to_who_may_not_read_them(client, narrow):
    workflow = await create(client, WORKFLOW)
    one, other = await ended(client, workflow, SECRET), await ended(client, workflow, SECRET + "s")
    seen = set()
    for path in (
        "", f"/{one}", f"/{one}/steps", f"/{one}/steps/a", f"/{one}/steps/each/items", f"/{one}/steps/each[0]",
        f"/{one}/diff/{other}", f"/{other}/diff", f"/{one}/events", f"/{one}/logs", f"/{one}/explain",
        f"/{one}/timeline", f"/{one}/graph", f"/{one}/lineage",
    ):  # fmt: skip
        answer = await narrow.get(f"{PATH}{path}")
        assert (answer.status_code, SECRET in answer.text) == (200, False), path
        seen |= {path} if SECRET in (await client.get(f"{PATH}{path}")).text else set()
    assert len(seen) == 10, "the paths that tell payloads to who may read them"
    live = await narrow.get(f"{PATH}/{one}/events", headers={"Accept": "text/event-stream"})
    assert (live.status_code, SECRET in live.text) == (200, False)
    for accept in ("text/plain", "text/markdown", "text/vnd.mermaid"):
        assert SECRET not in (await narrow.get(f"{PATH}/{one}", headers={"Accept": accept})).text


async def test_a_diff_says_that_payloads_differ_without_telling_them(client, narrow):
    workflow = await create(client, WORKFLOW)
    one, other = await ended(client, workflow, SECRET), await ended(client, workflow, SECRET + "s")
    found = (await narrow.get(f"{PATH}/{one}/diff/{other}")).json()
    assert (found["same_input"], found["input_patch"]) == (False, [])
    assert {"/input_patch", "/output_patch", "/steps/0/output_patch"} <= set(found["cut"])
    assert found["first_divergence"]["step_id"] == "a"


async def test_who_asks_something_of_a_run_is_not_told_its_payloads(client, narrow, database):
    workflow = await create(client, WORKFLOW)
    running = await add_execution(database, workflow, "PAUSED", input_data=f'"{SECRET}"')
    answers = [await narrow.post(f"{PATH}/{running}/{wish}") for wish in ("pause", "resume", "step", "cancel")]
    answers.append(await narrow.patch(f"{PATH}/{running}/budget", json={"max_cost": 1}))
    answers.append(await narrow.put(f"{PATH}/{running}/breakpoints", json={"steps": []}))
    done = await ended(client, workflow, SECRET)
    for wish, body in (("retry", {"from_step": "a"}), ("replay", {})):
        answers.append(await narrow.post(f"{PATH}/{done}/{wish}", json=body))
        answers.append(await narrow.post(f"{PATH}/{done}/{wish}", json=body, headers={"Prefer": "wait=20"}))
    for answer in answers:
        assert answer.status_code in {200, 201, 202}, answer.text
        assert SECRET not in answer.text, answer.request.url


async def test_what_others_filled_in_is_not_told(client, narrow, organization, database):
    workflow = await create(client, WORKFLOW)
    execution = {"id": await add_execution(database, workflow), "org_id": workflow["org_id"]}
    approval_id = await add_approval(database, execution, quorum=3)
    url = f"/api/v1/approvals/{approval_id}"
    async with (await organization.member()).http() as colleague:
        assert (await colleague.post(f"{url}/decide", json={"decision": "approve", "data": SECRET})).status_code == 200
    mine = await narrow.post(f"{url}/decide", json={"decision": "approve", "data": "mine"})
    assert [made["data"] for made in mine.json()["decisions"]] == [None, "mine"]
    for answer in (await narrow.get(url), await narrow.get("/api/v1/approvals")):
        assert (answer.status_code, SECRET in answer.text) == (200, False)
    assert SECRET in (await client.get(url)).text


async def test_what_one_sent_oneself_comes_back(client, narrow):
    workflow = await create(client, WORKFLOW)
    started = await narrow.post(f"/api/v1/workflows/{workflow['id']}/execute", json={"input": SECRET})
    assert started.json()["input_data"] == SECRET
