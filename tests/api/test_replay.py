"""A replay is a new execution from any step of an ended one, or from the start; one step may also run alone."""

import json

import pytest

from tests.api.control_calls import PATH, add_execution, add_step, audited
from tests.api.workflow_calls import codes, create, put, refused

WORKFLOW = {
    "name": "Lead",
    "input": {"type": "object"},
    "steps": [
        {"id": "find", "type": "set", "with": {"city": "${{ input.city }}"}},
        {"id": "notify", "type": "http.request", "needs": ["find"],
         "with": {"method": "POST", "url": "http://127.0.0.1:1024/"}},
        {"id": "score", "type": "set", "needs": ["find"], "with": {"n": 1}},
        {"id": "end", "type": "set", "needs": ["score", "notify"], "with": {"n": 2}},
    ],
}  # fmt: skip


@pytest.fixture
async def workflow(client):
    return await create(client, WORKFLOW)


@pytest.fixture
async def done(database, workflow):
    execution_id = await add_execution(database, workflow, "COMPLETED", input_data='{"city": "Berlin"}')
    for step in WORKFLOW["steps"]:
        await add_step(database, workflow, execution_id, step["id"], "COMPLETED", type=step["type"], output="{}")
    return execution_id


async def replay(client, execution_id, **body):
    return await client.post(f"{PATH}/{execution_id}/replay", json=body)


async def carried(database, execution_id):
    rows = await database.fetch(
        "SELECT path FROM execution_steps WHERE execution_id = $1 AND reused_from IS NOT NULL", execution_id
    )
    return {row["path"] for row in rows}


async def control_of(database, execution_id):
    return json.loads(await database.fetchval("SELECT control FROM executions WHERE id = $1", execution_id))


async def test_a_replay_from_a_step_reuses_what_comes_before_and_beside_it(client, database, done):
    answer = await replay(client, done, from_step="score", reason="compare")
    assert answer.status_code == 201, answer.text
    new = answer.json()
    assert (new["forked_from"], new["retry_of"], new["input_data"]) == (done, None, {"city": "Berlin"})
    assert await carried(database, new["id"]) == {"find", "notify"}
    assert await database.fetchval("SELECT root_id FROM executions WHERE id = $1", new["id"]) == done
    assert await audited(database, done) == ["execution.replay_requested"]


async def test_a_replay_from_the_start_spares_only_what_must_happen_once(client, database, done):
    new = (await client.post(f"{PATH}/{done}/replay")).json()
    assert await carried(database, new["id"]) == {"notify"}
    again = (await replay(client, done, redo_once=True)).json()
    assert await carried(database, again["id"]) == set()


async def test_the_input_may_be_another_and_must_fit(client, database, done):
    new = (await replay(client, done, input={"city": "Hamburg"}, from_step="score")).json()
    assert new["input_data"] == {"city": "Hamburg"}
    assert await carried(database, new["id"]) == {"find", "notify"}, "nothing before the step is computed anew"
    body = refused(await replay(client, done, input=None), 422, "input_schema_mismatch")
    assert codes(body["errors"]) == {"/input": "input_schema_mismatch"}


async def test_pins_and_breakpoints_are_asked_of_the_new_execution(client, database, done):
    new = (await replay(client, done, pins={"score": {"n": 9}}, breakpoints=["end"])).json()
    control = await control_of(database, new["id"])
    assert (control["pins"], control["breakpoints"]) == ({"score": {"n": 9}}, ["end"])
    body = refused(await replay(client, done, pins={"nowhere": 1}, breakpoints=["gone"]), 422, "validation_error")
    assert codes(body["errors"]) == {"/pins/nowhere": "unknown_step", "/breakpoints/0": "unknown_step"}


async def test_pins_stay_as_they_were_unless_others_are_given(client, database, workflow):
    control = json.dumps({"pins": {"score": 1}, "breakpoints": ["end"]})
    old = await add_execution(database, workflow, "CANCELLED", input_data="{}", control=control)
    kept = (await replay(client, old)).json()["id"]
    assert (await control_of(database, kept))["pins"] == {"score": 1}
    dropped = (await replay(client, old, pins={})).json()["id"]
    assert not (await control_of(database, dropped)).get("pins")
    shorter = WORKFLOW | {"steps": WORKFLOW["steps"][:1]}
    assert (await put(client, workflow["id"], shorter, "*")).status_code == 200
    latest = (await replay(client, old, version="latest")).json()
    assert latest["workflow_version"] == 2
    assert not (await control_of(database, latest["id"])).get("pins"), "of steps that are gone"


async def test_only_what_has_ended_is_replayed(client, database, workflow):
    for status in ("RUNNING", "PAUSED"):
        execution_id = await add_execution(database, workflow, status)
        refused(await replay(client, execution_id), 409, "invalid_state")


async def test_a_repeated_replay_with_a_key_is_one_and_another_input_is_another_request(client, done):
    headers = {"Idempotency-Key": f"replay-{done}"}
    url = f"{PATH}/{done}/replay"
    first = await client.post(url, json={"input": {"city": "Bonn"}}, headers=headers)
    again = await client.post(url, json={"input": {"city": "Bonn"}}, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    refused(await client.post(url, json={"input": {"city": "Kiel"}}, headers=headers), 422, "idempotency_key_reused")


async def test_the_line_has_replays_retries_and_children_the_oldest_first(
    client, other_client, database, workflow, done
):
    child = await add_execution(database, workflow, "COMPLETED", parent_id=done)
    fork = (await replay(client, done)).json()["id"]
    await add_execution(database, workflow, "COMPLETED")
    for asked in (done, fork):
        answer = (await client.get(f"{PATH}/{asked}/lineage")).json()
        assert answer["root_id"] == done
        assert [kin["id"] for kin in answer["data"]] == [done, child, fork]
    assert [kin["forked_from"] for kin in answer["data"]] == [None, None, done]
    assert answer["data"][1]["parent_id"] == done
    refused(await other_client.get(f"{PATH}/{done}/lineage"), 404, "not_found")


async def test_an_approval_is_not_taken_over_for_another_input_or_other_pins(client, database):
    """Else who started a run could have 10 approved, and replay it with 1,000,000."""
    steps = [
        {"id": "find", "type": "set", "with": {"n": 1}},
        {"id": "ask", "type": "approval", "needs": ["find"], "with": {"title": "Pay ${{ input }}"}},
        {"id": "pay", "type": "set", "needs": ["ask"], "with": {"n": "${{ input }}"}},
    ]
    workflow = await create(client, {"name": "Pay", "steps": steps})
    done = await add_execution(database, workflow, "COMPLETED", input_data="10")
    for step in steps:
        await add_step(database, workflow, done, step["id"], "COMPLETED", type=step["type"], output="{}")
    for asked, kept in (
        ({}, {"find", "ask"}),
        ({"input": 10}, {"find", "ask"}),
        ({"input": 1_000_000}, {"find"}),
        ({"pins": {"find": {"n": 9}}}, {"find"}),
    ):
        new = (await replay(client, done, from_step="pay", **asked)).json()["id"]
        assert await carried(database, new) == kept, asked


async def test_one_step_runs_alone_with_the_outputs_it_is_given(client, database, workflow):
    url = f"/api/v1/workflows/{workflow['id']}/steps/end/run"
    answer = await client.post(url, json={"input": {}, "outputs": {"score": {"n": 1}}})
    assert answer.status_code == 201, answer.text
    control = await control_of(database, answer.json()["id"])
    assert (control["only"], control["pins"]) == ("end", {"score": {"n": 1}})
    body = refused(await client.post(url, json={"input": {}, "outputs": {"nowhere": 1}}), 422, "validation_error")
    assert codes(body["errors"]) == {"/outputs/nowhere": "unknown_step"}
    refused(await client.post(url), 422, "input_schema_mismatch")
    missing = f"/api/v1/workflows/{workflow['id']}/steps/nowhere/run"
    refused(await client.post(missing, json={"input": {}}), 404, "not_found")
