"""A retry is a new execution that does again what did not end well, and nothing that did."""

import asyncio
import json

import pytest

from tests.api.control_calls import PATH, add_execution, add_step, audited
from tests.api.workflow_calls import codes, create, put, refused

WORKFLOW = {
    "name": "Order",
    "steps": [
        {"id": "check", "type": "set", "with": {"ok": True}},
        {"id": "charge", "type": "http.request", "needs": ["check"],
         "with": {"method": "POST", "url": "http://127.0.0.1:1024/"}},
        {"id": "ship", "type": "set", "needs": ["charge"], "with": {"done": "${{ steps.check.output.ok }}"}},
    ],
}  # fmt: skip


@pytest.fixture
async def workflow(client):
    return await create(client, WORKFLOW)


async def failed(database, workflow, **columns):
    """Ended because `charge` failed."""
    execution_id = await add_execution(database, workflow, "FAILED", **columns)
    await add_step(database, workflow, execution_id, "check", "COMPLETED", output='{"ok":true}')
    await add_step(
        database, workflow, execution_id, "charge", "FAILED", type="http.request", error="no", error_code="x"
    )
    await add_step(database, workflow, execution_id, "ship", "SKIPPED", reason="execution_failed")
    return execution_id


async def retry(client, execution_id, **body):
    return await client.post(f"{PATH}/{execution_id}/retry", json=body)


async def carried(database, execution_id):
    rows = await database.fetch(
        "SELECT path, reused_from FROM execution_steps WHERE execution_id = $1 AND reused_from IS NOT NULL "
        "ORDER BY path",
        execution_id,
    )
    return {row["path"]: row["reused_from"] for row in rows}


async def test_a_retry_is_a_new_execution_that_reuses_what_completed(client, owner, database, workflow):
    old = await failed(
        database, workflow, input_data='{"order": 7}', labels='{"team": "sales"}', priority=3, control='{"pause": {}}'
    )
    before = await database.fetch("SELECT * FROM executions WHERE id = $1", old)
    answer = await retry(client, old, reason="the shop is back")
    assert answer.status_code == 201, answer.text
    new = answer.json()
    assert answer.headers["location"] == f"{PATH}/{new['id']}"
    assert (new["status"], new["retry_of"], new["forked_from"], new["input_data"]) == (
        "PENDING",
        old,
        None,
        {"order": 7},
    )
    assert (new["user_id"], new["labels"]) == (owner.user_id, {"team": "sales"})
    row = (await database.fetch("SELECT root_id, priority FROM executions WHERE id = $1", new["id"]))[0]
    assert (row["root_id"], row["priority"]) == (old, 3)
    assert await carried(database, new["id"]) == {"check": old}
    assert await database.fetch("SELECT * FROM executions WHERE id = $1", old) == before, (
        "the old one stays what it was"
    )
    assert await audited(database, old) == ["execution.retry_requested"]
    details = await database.fetchval("SELECT details FROM audit_logs WHERE resource_id = $1", old)
    assert json.loads(details) == {"execution_id": new["id"], "reason": "the shop is back"}
    created = await database.fetchval("SELECT details FROM audit_logs WHERE resource_id = $1 LIMIT 1", new["id"])
    assert json.loads(created)["retry_of"] == old


async def test_a_retry_of_a_retry_shares_the_root_and_is_shown_in_the_line(client, database, workflow):
    first = await failed(database, workflow)
    second = await failed(database, workflow, root_id=first, retry_of=first)
    third = (await retry(client, second)).json()["id"]
    lineage = (await client.get(f"{PATH}/{third}/lineage")).json()
    assert lineage["root_id"] == first
    assert [(kin["id"], kin["retry_of"]) for kin in lineage["data"]] == [
        (first, None),
        (second, first),
        (third, second),
    ]


async def test_what_is_under_way_is_not_retried(client, database, workflow):
    for status in ("RUNNING", "WAITING", "PAUSED", "CANCELLING"):
        execution_id = await add_execution(database, workflow, status)
        assert status in refused(await retry(client, execution_id), 409, "invalid_state")["detail"]


async def test_what_completed_is_retried_from_a_step_only(client, database, workflow):
    done = await add_execution(database, workflow, "COMPLETED")
    for step_id, kind in (("check", "set"), ("charge", "http.request"), ("ship", "set")):
        await add_step(database, workflow, done, step_id, "COMPLETED", type=kind, output="{}")
    refused(await retry(client, done), 409, "invalid_state")
    new = (await retry(client, done, from_step="ship")).json()["id"]
    assert await carried(database, new) == {"check": done, "charge": done}


async def test_what_must_happen_once_and_did_is_reused_unless_it_is_told_otherwise(client, database, workflow):
    done = await add_execution(database, workflow, "COMPLETED")
    for step_id, kind in (("check", "set"), ("charge", "http.request"), ("ship", "set")):
        await add_step(database, workflow, done, step_id, "COMPLETED", type=kind, output="{}")
    spared = (await retry(client, done, from_step="check")).json()["id"]
    assert await carried(database, spared) == {"charge": done}
    again = (await retry(client, done, from_step="check", redo_once=True)).json()["id"]
    assert await carried(database, again) == {}


async def test_a_retry_runs_on_the_same_version_unless_the_latest_is_wanted(client, database, workflow):
    old = await failed(database, workflow)
    changed = WORKFLOW | {"steps": WORKFLOW["steps"][:2], "description": "shorter"}
    assert (await put(client, workflow["id"], changed, "*")).status_code == 200
    assert (await retry(client, old)).json()["workflow_version"] == 1
    assert (await retry(client, old, version="latest")).json()["workflow_version"] == 2
    assert (await retry(client, old, from_step="ship")).status_code == 201
    body = refused(await retry(client, old, from_step="ship", version="latest"), 422, "validation_error")
    assert codes(body["errors"]) == {"/from_step": "unknown_step"}


async def test_the_input_must_fit_the_version_that_is_run(client, database, workflow):
    old = await failed(database, workflow, input_data="7")
    assert (await put(client, workflow["id"], WORKFLOW | {"input": {"type": "string"}}, "*")).status_code == 200
    refused(await retry(client, old, version="latest"), 422, "input_schema_mismatch")
    assert (await retry(client, old)).status_code == 201


async def test_one_item_is_retried_and_the_others_are_reused(client, database):
    each = {"id": "each", "type": "set", "for_each": "${{ input }}", "with": {"n": "${{ item }}"}}
    workflow = await create(client, {"name": "Map", "steps": [each, {"id": "end", "type": "set", "needs": ["each"]}]})
    old = await add_execution(database, workflow, "COMPLETED", input_data="[1, 2, 3]")
    await add_step(database, workflow, old, "each", "COMPLETED", items=3, output="[{}, {}, {}]")
    for index in range(3):
        await add_step(database, workflow, old, f"each[{index}]", "COMPLETED", output="{}")
    await add_step(database, workflow, old, "end", "COMPLETED", output="{}")
    new = (await retry(client, old, from_step="each[1]")).json()["id"]
    assert await carried(database, new) == {"each[0]": old, "each[2]": old}
    for path in ("each[3]", "end[0]", "nowhere", "each[x]"):
        body = refused(await retry(client, old, from_step=path), 422, "validation_error")
        assert codes(body["errors"]) == {"/from_step": "unknown_step"}


async def test_a_repeated_request_with_a_key_is_one_retry(client, database, workflow):
    old = await failed(database, workflow)
    headers = {"Idempotency-Key": f"retry-{old}"}
    url = f"{PATH}/{old}/retry"
    answers = await asyncio.gather(*(client.post(url, json={"reason": "x"}, headers=headers) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert answers[0].json()["retry_of"] == answers[1].json()["retry_of"] == old
    assert await audited(database, old) == ["execution.retry_requested"]
    other = await client.post(url, json={"from_step": "check"}, headers=headers)
    refused(other, 422, "idempotency_key_reused")
    refused(await client.post(f"{PATH}/{old}/replay", headers=headers), 422, "idempotency_key_reused")


async def test_a_retry_is_answered_again_though_its_workflow_was_archived_since(client, database, workflow):
    old = await failed(database, workflow)
    url, headers = f"{PATH}/{old}/retry", {"Idempotency-Key": f"retry-{old}"}
    first = await client.post(url, headers=headers)
    await database.execute("UPDATE workflows SET archived_at = now() WHERE id = $1", workflow["id"])
    again = await client.post(url, headers=headers)
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    refused(await client.post(url), 409, "invalid_state")


async def test_the_reason_of_a_retry_is_kept_though_its_process_died_before_it_was_noted(client, database, workflow):
    old = await failed(database, workflow)
    url, headers = f"{PATH}/{old}/retry", {"Idempotency-Key": f"retry-{old}"}
    unheard = (await client.post(url, headers=headers)).json()["id"]
    assert await audited(database, old) == []
    for _ in range(2):
        assert (await client.post(url, json={"reason": "x"}, headers=headers)).json()["id"] == unheard
    assert await audited(database, old) == ["execution.retry_requested"]


async def test_a_run_of_one_step_is_retried_as_such_with_what_was_given_to_it(client, database, workflow):
    control = {"only": "ship", "pins": {"check": 1}, "budget": {"max_steps": 3}, "breakpoints": ["ship"], "frozen": 2.5}
    old = await failed(database, workflow, control=json.dumps(control))
    new = (await retry(client, old)).json()["id"]
    stored = await database.fetchval("SELECT control FROM executions WHERE id = $1", new)
    asked = json.loads(stored)
    assert {name: asked[name] for name in ("only", "pins", "budget")} == {
        name: control[name] for name in ("only", "pins", "budget")
    }
    assert not {"breakpoints", "frozen"} & set(asked)


async def test_an_archived_workflow_takes_no_retries(client, database, workflow):
    old = await failed(database, workflow)
    assert (await client.delete(f"/api/v1/workflows/{workflow['id']}", headers={"If-Match": "*"})).status_code == 204
    refused(await retry(client, old), 409, "invalid_state")


async def in_bulk(client, **body):
    answer = await client.post(f"{PATH}/bulk", json={"action": "retry", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_bulk_retry_repairs_each_once(client, database, workflow):
    old = [await failed(database, workflow, fingerprint="f") for _ in range(3)]
    await add_execution(database, workflow, "COMPLETED", fingerprint="f")
    await add_execution(database, workflow, "PAUSED", fingerprint="f")
    chosen = {"fingerprint": "f", "workflow_id": workflow["id"]}
    preview = await in_bulk(client, filter=chosen, dry_run=True)
    assert (preview["matched"], preview["execution_ids"], preview["new_execution_ids"]) == (3, old, [])
    done = await in_bulk(client, filter=chosen, expected_count=3)
    assert (done["matched"], done["applied"], done["failures"]) == (3, 3, [])
    sources = "SELECT retry_of FROM executions WHERE id = ANY($1::text[]) ORDER BY retry_of"
    rows = await database.fetch(sources, done["new_execution_ids"])
    assert [row["retry_of"] for row in rows] == old
    again = await in_bulk(client, filter=chosen | {"ids": old})
    assert (again["matched"], again["applied"]) == (0, 0), "what was retried is not retried by the way"


async def test_two_people_retrying_the_same_at_once_make_one_of_each(client, database, workflow):
    old = [await failed(database, workflow) for _ in range(4)]
    await asyncio.gather(*(in_bulk(client, filter={"ids": old}) for _ in range(3)))
    count = "SELECT count(*) FROM executions WHERE retry_of = ANY($1::text[])"
    assert await database.fetchval(count, old) == 4


async def test_a_bulk_retry_tells_what_could_not_be_repaired(client, database, workflow):
    good, bad = await failed(database, workflow), await failed(database, workflow)
    other = await create(client, WORKFLOW)
    await database.execute("UPDATE executions SET workflow_id = $2 WHERE id = $1", bad, other["id"])
    await client.delete(f"/api/v1/workflows/{other['id']}", headers={"If-Match": "*"})
    done = await in_bulk(client, filter={"ids": [good, bad]})
    assert (done["matched"], done["applied"]) == (2, 1)
    [failure] = done["failures"]
    assert (failure["execution_id"], failure["code"]) == (bad, "invalid_state")


async def test_a_bulk_retry_needs_the_permission_to_start(live, client, database, workflow):
    old = await failed(database, workflow)
    scopes = {"name": "operator", "scopes": ["executions.control", "executions.read"]}
    key = (await client.post("/api/v1/api-keys", json=scopes)).json()["key"]
    async with live.http(key) as operator:
        body = {"action": "retry", "filter": {"ids": [old]}}
        refused(await operator.post(f"{PATH}/bulk", json=body), 403, "insufficient_scope")
        assert (await operator.post(f"{PATH}/bulk", json=body | {"action": "cancel"})).status_code == 200
