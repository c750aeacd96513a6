"""Budgets of the day as a client sees them."""

import pytest

from app.auth.permissions import Role
from tests.api.control_calls import PATH, audited
from tests.api.workflow_calls import create, refused

URL = "/api/v1/budgets"
DOCUMENT = {"name": "Two", "steps": [{"id": "a", "type": "set"}, {"id": "b", "type": "set", "needs": ["a"]}]}


async def test_a_run_pauses_when_the_day_is_used_up_and_goes_on_when_it_is_raised(client):
    workflow = await create(client, DOCUMENT)
    limit = f"{URL}/workflows/{workflow['id']}"
    put = await client.put(limit, json={"max_steps": 1})
    assert (put.status_code, put.json()["scope"], put.json()["limits"]) == (200, "workflow", {"max_steps": 1})
    execution_id = (await client.post(PATH, json={"workflow_id": workflow["id"]})).json()["id"]
    while (detail := (await client.get(f"{PATH}/{execution_id}")).json())["status"] != "PAUSED":
        pass
    assert detail["status_reason"] == "budget_exceeded"
    explained = (await client.get(f"{PATH}/{execution_id}/explain")).json()
    assert explained["code"] == "budget_exceeded"
    assert "workflow" in explained["message"]
    [shown] = (await client.get(URL)).json()["data"]
    assert shown["used"]["steps"] == 1
    await client.put(limit, json={"max_steps": 100})
    await client.post(f"{PATH}/{execution_id}/resume", json={})
    ended = (await client.get(f"{PATH}/{execution_id}", headers={"Prefer": "wait=20"})).json()
    assert ended["status"] == "COMPLETED"


async def test_a_budget_replaces_the_one_before_and_leaves_an_audit_row(client, organization, owner, database):
    first = await client.put(f"{URL}/organization", json={"max_cost": 5, "max_tokens": 100})
    assert (first.json()["limits"], first.json()["updated_by"]) == ({"max_cost": 5, "max_tokens": 100}, owner.user_id)
    await client.put(f"{URL}/organization", json={"max_duration": "90m"})
    [shown] = (await client.get(URL)).json()["data"]
    assert (shown["scope"], shown["workflow_id"], shown["limits"]) == ("organization", None, {"max_duration": "90m"})
    assert (await client.delete(f"{URL}/organization")).status_code == 204
    refused(await client.delete(f"{URL}/organization"), 404, "not_found")
    assert (await client.get(URL)).json() == {"data": []}
    assert (await audited(database, organization.id))[1:] == ["budget.set", "budget.set", "budget.removed"]


@pytest.mark.parametrize(
    "body",
    [{}, {"max_cost": None}, {"max_cost": -1}, {"max_steps": 0}, {"max_steps": 1.5}, {"max_tokens": 10**30},
     {"max_duration": "soon"}, {"max_cost": "1e999"}, {"max_cost": True}, {"more": 1}, []],
)  # fmt: skip
async def test_a_bad_budget_is_refused_and_changes_nothing(client, body):
    answer = await client.put(f"{URL}/organization", json=body)
    assert answer.status_code == 422, answer.text
    assert (await client.get(URL)).json() == {"data": []}


async def test_members_see_budgets_and_do_not_set_them(organization, client, other_client):
    workflow = await create(client, DOCUMENT)
    limit = f"{URL}/workflows/{workflow['id']}"
    await client.put(limit, json={"max_cost": 5})
    async with (await organization.member(Role.MEMBER)).http() as member:
        assert len((await member.get(URL)).json()["data"]) == 1
        refused(await member.put(limit, json={"max_cost": 50}), 403, "insufficient_scope")
    assert (await other_client.get(URL)).json() == {"data": []}
    refused(await other_client.put(limit, json={"max_cost": 50}), 404, "not_found")
    refused(await other_client.delete(limit), 404, "not_found")


async def test_a_workflow_that_is_removed_takes_its_budget_along(client):
    workflow = await create(client, DOCUMENT)
    await client.put(f"{URL}/workflows/{workflow['id']}", json={"max_cost": 5})
    gone = await client.delete(f"/api/v1/workflows/{workflow['id']}", headers={"If-Match": "*"})
    assert gone.status_code == 204, gone.text
    assert (await client.get(URL)).json() == {"data": []}
