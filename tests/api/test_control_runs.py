"""Wishes, signals, decisions and repairs as a client sees them on real runs, from the request to the end."""

from datetime import timedelta

import pytest

from app import clock
from app.auth.permissions import Role
from tests.api.control_calls import PATH
from tests.api.workflow_calls import codes, create, put, refused

APPROVALS = "/api/v1/approvals"


def steps(*listed, **more):
    return {"name": "Run", "steps": list(listed), **more}


def step(step_id, *needs, **config):
    return {"id": step_id, "type": "set", "needs": list(needs), "with": config}


async def start(client, document, **body):
    workflow = await create(client, document)
    answer = await client.post(PATH, json={"workflow_id": workflow["id"], **body})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def ended(client, execution_id):
    detail = (await client.get(f"{PATH}/{execution_id}", headers={"Prefer": "wait=30"})).json()
    assert detail["completed_at"], detail["status"]
    return detail


async def reached(client, execution_id, status):
    """The detail as soon as the execution is in a status; the test's timeout ends a wait that is in vain."""
    while True:
        detail = (await client.get(f"{PATH}/{execution_id}")).json()
        if detail["status"] == status:
            return detail


async def ask(client, execution_id, wish, **body):
    answer = await client.post(f"{PATH}/{execution_id}/{wish}", json=body)
    assert answer.status_code in {200, 201, 202}, answer.text
    return answer.json()


def by_id(detail):
    return {found["id"]: found for found in detail["steps"]}


async def types(client, execution_id):
    events = (await client.get(f"{PATH}/{execution_id}/events", params={"limit": 1000})).json()["data"]
    return [event["type"] for event in events]


async def test_a_breakpoint_an_edit_and_stepping_through(client):
    document = steps(
        step("a", n=1), step("b", "a", n="${{ steps.a.output.n + 1 }}"), step("c", "b", n="${{ steps.b.output.n + 1 }}")
    )
    execution_id = await start(client, document, breakpoints=["b"])
    paused = await reached(client, execution_id, "PAUSED")
    assert (paused["status_reason"], paused["control"]["pause"]["at"]) == ("breakpoint", "b")
    assert [found["status"] for found in paused["steps"]] == ["COMPLETED", "PENDING", "PENDING"]
    edit = await client.put(f"{PATH}/{execution_id}/steps/a/output", json={"output": {"n": 10}})
    assert edit.status_code == 202
    await ask(client, execution_id, "step")
    while (by_id(await reached(client, execution_id, "PAUSED"))["b"]["status"]) != "COMPLETED":
        pass
    await ask(client, execution_id, "resume")
    detail = await ended(client, execution_id)
    assert (detail["status"], detail["output"]) == ("COMPLETED", {"n": 12})
    assert by_id(detail)["a"]["edited_by"] == detail["user_id"]
    assert "step_edited" in await types(client, execution_id)


async def test_a_pinned_step_does_not_run(client):
    document = steps({"id": "a", "type": "function", "with": {"function": "flaky", "args": {"fail_times": 99}}},
                     step("b", "a", n="${{ steps.a.output.n }}"))  # fmt: skip
    detail = await ended(client, await start(client, document, pins={"a": {"n": 5}}))
    assert (detail["status"], detail["output"]) == ("COMPLETED", {"n": 5})
    assert (by_id(detail)["a"]["status"], by_id(detail)["a"]["attempts"]) == ("COMPLETED", [])


async def test_pause_and_resume_of_a_waiting_run(client):
    execution_id = await start(client, steps({"id": "a", "type": "wait_for_signal", "with": {"signal": "go"}}))
    await reached(client, execution_id, "WAITING")
    await ask(client, execution_id, "pause", reason="lunch")
    paused = await reached(client, execution_id, "PAUSED")
    assert (paused["status_reason"], paused["control"]["pause"]["detail"]) == ("paused", "lunch")
    await ask(client, execution_id, "pause")
    await ask(client, execution_id, "signal", name="go", payload=1)
    assert (await client.get(f"{PATH}/{execution_id}")).json()["status"] == "PAUSED"
    await ask(client, execution_id, "resume")
    assert (await ended(client, execution_id))["status"] == "COMPLETED"


@pytest.mark.parametrize("wish", ["cancel", "terminate"])
async def test_a_paused_run_is_ended(client, wish):
    execution_id = await start(client, steps(step("a", n=1)), breakpoints=["a"])
    await reached(client, execution_id, "PAUSED")
    await ask(client, execution_id, wish, reason="no")
    assert (await ended(client, execution_id))["status"] == "CANCELLED"


async def test_a_signal_is_matched_whether_it_comes_before_or_while_the_step_waits(client):
    waiting = {"id": "w", "type": "wait_for_signal", "needs": ["a"], "with": {"signal": "paid"}}
    early = await start(client, steps(step("a", n=1), waiting), breakpoints=["a"])
    await reached(client, early, "PAUSED")
    await ask(client, early, "signal", name="paid", payload={"amount": 1})
    await ask(client, early, "resume")
    late = await start(client, steps(step("a", n=1), waiting))
    detail = await reached(client, late, "WAITING")
    assert by_id(detail)["w"]["awaits"]["kind"] == "signal"
    await ask(client, late, "signal", name="paid", payload={"amount": 1})
    for execution_id in (early, late):
        assert (await ended(client, execution_id))["output"]["payload"] == {"amount": 1}


async def test_an_approval_is_asked_for_decided_and_told(client, organization, owner):
    document = steps({"id": "ok", "type": "approval", "with": {"title": "Pay?"}}, step("b", "ok.approved", n=1))
    execution_id = await start(client, document)
    await reached(client, execution_id, "WAITING")
    [approval] = (await client.get(APPROVALS, params={"execution_id": execution_id})).json()["data"]
    assert (approval["title"], approval["step_id"], approval["status"]) == ("Pay?", "ok", "PENDING")
    assert approval["deciders"]["requested_by"] == owner.user_id
    async with (await organization.member(Role.MEMBER)).http() as other:
        decided = await other.post(f"{APPROVALS}/{approval['id']}/decide", json={"decision": "approve"})
        assert decided.status_code == 200, decided.text
    detail = await ended(client, execution_id)
    assert detail["status"] == "COMPLETED"
    assert (await client.get(f"{APPROVALS}/{approval['id']}")).json()["status"] == "APPROVED"
    assert {"approval_requested", "approval_decided"} <= set(await types(client, execution_id))


async def test_a_failed_run_is_repaired_on_a_mended_version_and_what_was_done_is_reused(client):
    broken = steps(step("a", n=1), step("b", "a", n="${{ 1 / (steps.a.output.n - 1) }}"), step("c", "b", n=3))
    workflow = await create(client, broken)
    execution_id = (await client.post(PATH, json={"workflow_id": workflow["id"]})).json()["id"]
    assert (await ended(client, execution_id))["status"] == "FAILED"
    assert (
        await put(client, workflow["id"], steps(step("a", n=1), step("b", "a", n=2), step("c", "b", n=3)), "*")
    ).is_success
    again = await ended(client, (await ask(client, execution_id, "retry"))["id"])
    assert again["status"] == "FAILED", "the same version fails the same way"
    repaired = await ended(client, (await ask(client, execution_id, "retry", version="latest"))["id"])
    assert (repaired["status"], repaired["output"]) == ("COMPLETED", {"n": 3})
    assert [found["reused_from"] for found in repaired["steps"]] == [execution_id, None, None]
    told = await types(client, repaired["id"])
    assert told.count("step_reused") == 1
    assert told.count("step_started") == 2


async def test_one_item_is_repaired_and_the_map_completes_with_the_others_reused(client):
    each = {"id": "m", "type": "set", "for_each": "${{ input }}", "with": {"n": "${{ 6 / item }}"}}
    workflow = await create(client, steps(each | {"on_item_error": "continue"}))
    execution_id = (await client.post(PATH, json={"workflow_id": workflow["id"], "input": [1, 0, 2]})).json()["id"]
    done = await ended(client, execution_id)
    assert (done["status"], done["output"]) == ("COMPLETED", [{"n": 6}, None, {"n": 3}])
    fixed = each | {"with": {"n": "${{ item == 0 ? 0 : 6 / item }}"}}
    assert (await put(client, workflow["id"], steps(fixed), "*")).is_success
    new = await ended(client, (await ask(client, execution_id, "retry", from_step="m[1]", version="latest"))["id"])
    assert (new["status"], new["output"]) == ("COMPLETED", [{"n": 6}, {"n": 0}, {"n": 3}])
    items = (await client.get(f"{PATH}/{new['id']}/steps/m/items")).json()["data"]
    assert [item["reused_from"] for item in items] == [execution_id, None, execution_id]


async def test_a_replay_with_another_input_keeps_what_comes_before(client):
    document = steps(step("a", city="${{ input.city }}"),
                     step("b", "a", both="${{ steps.a.output.city + ' ' + input.city }}"))  # fmt: skip
    execution_id = await start(client, document, input={"city": "Berlin"})
    assert (await ended(client, execution_id))["output"] == {"both": "Berlin Berlin"}
    replayed = await ask(client, execution_id, "replay", from_step="b", input={"city": "Bonn"})
    assert (await ended(client, replayed["id"]))["output"] == {"both": "Berlin Bonn"}


async def test_one_step_alone_sees_what_it_is_given_and_the_rest_is_skipped(client):
    document = steps(step("a", n=1), step("b", "a", n="${{ steps.a.output.n + 1 }}"), step("c", "b", n=9))
    workflow = await create(client, document)
    url = f"/api/v1/workflows/{workflow['id']}/steps/b/run"
    answer = await client.post(url, json={"outputs": {"a": {"n": 41}}}, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200, answer.text
    found = by_id(await ended(client, answer.json()["id"]))
    assert found["b"]["output"] == {"n": 42}
    assert (found["c"]["status"], found["c"]["reason"]) == ("SKIPPED", "not_selected")


async def test_a_budget_pauses_and_once_raised_lets_go_on(client):
    document = steps(step("a", n=1), step("b", "a", n=2), step("c", "b", n=3), budget={"max_steps": 1})
    execution_id = await start(client, document)
    paused = await reached(client, execution_id, "PAUSED")
    assert paused["status_reason"] == "budget_exceeded"
    raised = await client.patch(f"{PATH}/{execution_id}/budget", json={"max_steps": 10})
    assert raised.status_code == 202
    await ask(client, execution_id, "resume")
    detail = await ended(client, execution_id)
    assert detail["status"] == "COMPLETED"
    assert detail["control"]["budget"]["max_steps"] == 10


async def test_an_approval_cannot_be_passed_by_who_started_the_run(client):
    ask = {"id": "ask", "type": "approval", "needs": ["a"], "with": {"title": "Pay?"}}
    document = steps(step("a", n=1), ask, step("pay", "ask.approved"))
    workflow = await create(client, document)
    pinned = await client.post(PATH, json={"workflow_id": workflow["id"], "pins": {"ask": {"decision": "approved"}}})
    assert codes(refused(pinned, 422, "validation_error")["errors"]) == {"/pins/ask": "invalid_value"}
    alone = await client.post(f"/api/v1/workflows/{workflow['id']}/steps/pay/run", json={})
    refused(alone, 403, "approval_required")
    assert (await client.post(f"/api/v1/workflows/{workflow['id']}/steps/a/run", json={})).status_code == 201
    execution_id = await start(client, document, breakpoints=["ask"])
    await reached(client, execution_id, "PAUSED")
    given = {"output": {"decision": "approved"}}
    refused(await client.put(f"{PATH}/{execution_id}/steps/ask/output", json=given), 409, "invalid_state")
    await client.post(f"{PATH}/{execution_id}/resume", json={})
    assert (await reached(client, execution_id, "WAITING"))["status_reason"] == "waiting_for_approval"


async def test_an_output_that_a_person_gives_takes_its_port(client):
    listen = {"id": "listen", "type": "wait_for_signal", "needs": ["a"], "with": {"signal": "go"}}
    late = step("late", "listen.timed_out")
    document = steps(step("a", n=1), listen, step("went", "listen.received"), late)
    for output, taken in (({"signal": "go"}, "went"), ({"signal": None}, "late")):
        detail = await ended(client, await start(client, document, pins={"listen": output}))
        assert {one["id"] for one in detail["steps"] if one["status"] == "COMPLETED"} == {"a", "listen", taken}


async def test_a_delayed_run_that_is_paused_goes_back_to_waiting_for_its_time(client):
    later = (clock.now() + timedelta(days=9)).isoformat()
    execution_id = await start(client, steps(step("a", n=1)), start_at=later)
    await ask(client, execution_id, "pause", reason="not yet")
    paused = await reached(client, execution_id, "PAUSED")
    assert (paused["started_at"], paused["status_reason"]) == (None, "paused")
    assert (await client.get(f"{PATH}/{execution_id}/explain")).json()["code"] == "paused"
    await ask(client, execution_id, "resume")
    detail = await reached(client, execution_id, "PENDING")
    assert (detail["started_at"], detail["wake_at"] is None) == (None, False)
    assert (await client.get(f"{PATH}/{execution_id}/explain")).json()["code"] == "delayed_start"
    await ask(client, execution_id, "cancel")
    assert (await ended(client, execution_id))["status"] == "CANCELLED"
