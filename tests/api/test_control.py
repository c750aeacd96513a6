"""What people ask of executions under way is mail with an audit row, and refused with a reason where it cannot be."""

import asyncio
import json
from datetime import timedelta, timezone

import pytest

from app import clock
from app.services import bulk
from tests.api.control_calls import PATH, add_execution, add_step, audited, mail_of
from tests.api.workflow_calls import codes, create, refused

WORKFLOW = {
    "name": "Three",
    "steps": [
        {"id": "a", "type": "set", "with": {"n": 1}},
        {"id": "b", "type": "set", "needs": ["a"], "with": {"n": 2}},
        {"id": "c", "type": "set", "needs": ["b"], "with": {"n": 3}},
    ],
}
WISHES = ["cancel", "terminate", "pause", "resume", "step"]


@pytest.fixture
async def workflow(client):
    return await create(client, WORKFLOW)


@pytest.mark.parametrize("wish", WISHES)
async def test_a_wish_is_mail_with_the_reason_and_an_audit_row(client, owner, database, workflow, wish):
    execution_id = await add_execution(database, workflow)
    answer = await client.post(f"{PATH}/{execution_id}/{wish}", json={"reason": "look first"})
    assert (answer.status_code, answer.json()["id"]) == (202, execution_id)
    [mail] = await mail_of(database, execution_id)
    said = {} if wish == "step" else {"reason": "look first"}
    assert (mail["kind"], json.loads(mail["payload"]), mail["user_id"]) == (wish, said, owner.user_id)
    [row] = await database.fetch("SELECT action, details FROM audit_logs WHERE resource_id = $1", execution_id)
    assert (row["action"], json.loads(row["details"])) == (f"execution.{wish}_requested", {"reason": "look first"})


@pytest.mark.parametrize("wish", WISHES)
async def test_asking_again_is_no_error_and_an_empty_body_is_enough(client, database, workflow, wish):
    execution_id = await add_execution(database, workflow)
    for _ in range(2):
        assert (await client.post(f"{PATH}/{execution_id}/{wish}")).status_code == 202
    assert [mail["kind"] for mail in await mail_of(database, execution_id)] == [wish, wish]


@pytest.mark.parametrize("body", [b"{", b'{"reason": NaN}', b'{"reason": "\\ud800"}', b"[1,]"])
async def test_a_body_that_is_no_json_is_not_taken_for_none(client, database, workflow, body):
    execution_id = await add_execution(database, workflow, "FAILED", fingerprint="f1")
    running = await add_execution(database, workflow)
    before = await database.fetchval("SELECT count(*) FROM executions")
    for path in (
        *(f"{PATH}/{running}/{wish}" for wish in WISHES),
        f"{PATH}/{execution_id}/retry",
        f"{PATH}/{execution_id}/replay",
        "/api/v1/failures/f1/retry",
        f"/api/v1/workflows/{workflow['id']}/execute",
        f"/api/v1/workflows/{workflow['id']}/steps/a/run",
    ):
        answer = await client.post(path, content=body, headers={"Content-Type": "application/json"})
        refused(answer, 400, "invalid_json")
    assert await mail_of(database, running) == []
    assert await database.fetchval("SELECT count(*) FROM executions") == before


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
async def test_what_has_ended_takes_no_wish(client, database, workflow, status):
    execution_id = await add_execution(database, workflow, status)
    url = f"{PATH}/{execution_id}"
    for wish in WISHES:
        body = refused(await client.post(f"{url}/{wish}"), 409, "invalid_state")
        assert status in body["detail"]
    refused(await client.put(f"{url}/breakpoints", json={"steps": []}), 409, "invalid_state")
    refused(await client.put(f"{url}/steps/a/output", json={"output": 1}), 409, "invalid_state")
    refused(await client.patch(f"{url}/budget", json={"max_cost": 1}), 409, "invalid_state")
    refused(await client.post(f"{url}/signal", json={"name": "go"}), 409, "invalid_state")
    assert await mail_of(database, execution_id) == []
    assert await audited(database, execution_id) == []


async def test_only_a_paused_execution_goes_on_step_by_step(client, database, workflow):
    execution_id = await add_execution(database, workflow, "WAITING")
    body = refused(await client.post(f"{PATH}/{execution_id}/step"), 409, "invalid_state")
    assert "WAITING" in body["detail"]
    assert await mail_of(database, execution_id) == []


async def test_breakpoints_replace_the_set_and_name_steps_of_the_workflow(client, database, workflow):
    execution_id = await add_execution(database, workflow)
    url = f"{PATH}/{execution_id}/breakpoints"
    assert (await client.put(url, json={"steps": ["b", "c", "b"]})).status_code == 202
    assert (await client.put(url, json={"steps": []})).status_code == 202
    sent = [json.loads(mail["payload"]) for mail in await mail_of(database, execution_id)]
    assert sent == [{"steps": ["b", "c"]}, {"steps": []}]
    body = refused(await client.put(url, json={"steps": ["b", "nowhere"]}), 422, "validation_error")
    assert codes(body["errors"]) == {"/steps/1": "unknown_step"}
    assert await audited(database, execution_id) == ["execution.breakpoints_requested"] * 2


async def edit(client, execution_id, step_id, output, **more):
    return await client.put(f"{PATH}/{execution_id}/steps/{step_id}/output", json={"output": output, **more})


async def test_a_step_that_has_not_started_is_pinned_whatever_the_status(client, database, workflow):
    execution_id = await add_execution(database, workflow, "WAITING")
    await add_step(database, workflow, execution_id, "a", "COMPLETED")
    await add_step(database, workflow, execution_id, "b", "PENDING")
    for step_id in ("b", "c"):
        answer = await edit(client, execution_id, step_id, {"n": None}, reason="known")
        assert answer.status_code == 202, answer.text
    sent = [json.loads(mail["payload"]) for mail in await mail_of(database, execution_id)]
    assert sent == [{"step_id": step_id, "output": {"n": None}} for step_id in ("b", "c")]


async def test_pinned_outputs_are_bounded_together(client, database, workflow):
    execution_id = await add_execution(database, workflow, "PAUSED")
    kept = json.dumps({"pins": {"a": "x" * (4 << 20)}})
    await database.execute("UPDATE executions SET control = $2 WHERE id = $1", execution_id, kept)
    refused(await client.put(f"{PATH}/{execution_id}/steps/b/output", json={"output": 1}), 409, "invalid_state")
    assert await mail_of(database, execution_id) == []


async def test_a_completed_step_is_edited_while_paused_and_before_anything_uses_it(client, database, workflow):
    execution_id = await add_execution(database, workflow, "PAUSED", status_reason="breakpoint")
    await add_step(database, workflow, execution_id, "a", "COMPLETED", output="1")
    await add_step(database, workflow, execution_id, "b", "PENDING")
    assert (await edit(client, execution_id, "a", [1])).status_code == 202
    await add_step(database, workflow, execution_id, "c", "RUNNING")
    body = refused(await edit(client, execution_id, "a", [2]), 409, "invalid_state")
    assert "'c'" in body["detail"]
    assert len(await mail_of(database, execution_id)) == 1


async def test_a_step_that_was_skipped_or_pinned_downstream_has_gone_by_the_output_too(client, database, workflow):
    for status in ("SKIPPED", "COMPLETED"):
        execution_id = await add_execution(database, workflow, "PAUSED", status_reason="breakpoint")
        await add_step(database, workflow, execution_id, "a", "COMPLETED", output="1")
        await add_step(database, workflow, execution_id, "b", status, started_at=None)
        body = refused(await edit(client, execution_id, "a", [1]), 409, "invalid_state")
        assert "'b'" in body["detail"]
        assert await mail_of(database, execution_id) == []


async def test_a_completed_step_of_a_running_execution_is_not_edited(client, database, workflow):
    execution_id = await add_execution(database, workflow, "WAITING")
    await add_step(database, workflow, execution_id, "a", "COMPLETED")
    body = refused(await edit(client, execution_id, "a", 1), 409, "invalid_state")
    assert "pause it first" in body["detail"]


@pytest.mark.parametrize("status", ["RUNNING", "WAITING", "FAILED", "SKIPPED", "CANCELLED"])
async def test_a_step_that_is_under_way_or_ended_otherwise_is_not_edited(client, database, workflow, status):
    execution_id = await add_execution(database, workflow)
    await add_step(database, workflow, execution_id, "a", status)
    assert status in refused(await edit(client, execution_id, "a", 1), 409, "invalid_state")["detail"]


async def test_items_of_a_step_downstream_count_as_started(client, database):
    steps = [*WORKFLOW["steps"][:1], {"id": "m", "type": "set", "needs": ["a"], "for_each": [1], "with": {"n": 1}}]
    workflow = await create(client, WORKFLOW | {"steps": steps})
    execution_id = await add_execution(database, workflow)
    await add_step(database, workflow, execution_id, "a", "COMPLETED")
    await add_step(database, workflow, execution_id, "m[0]", "COMPLETED")
    assert "'m'" in refused(await edit(client, execution_id, "a", 1), 409, "invalid_state")["detail"]
    refused(await edit(client, execution_id, "m[0]", 1), 404, "not_found")


async def test_a_step_that_the_workflow_does_not_have_cannot_be_edited(client, database, workflow):
    execution_id = await add_execution(database, workflow)
    refused(await edit(client, execution_id, "nowhere", 1), 404, "not_found")
    refused(
        await client.put(f"{PATH}/{execution_id}/steps/a/output", json={"reason": "no output"}), 422, "validation_error"
    )


async def test_a_budget_is_changed_in_the_parts_that_are_given(client, database, workflow):
    execution_id = await add_execution(database, workflow, status_reason="budget_exceeded")
    url = f"{PATH}/{execution_id}/budget"
    change = {"max_cost": 2.5, "max_tokens": None, "max_duration": "PT90S", "reason": "worth it"}
    assert (await client.patch(url, json=change)).status_code == 202
    [mail] = await mail_of(database, execution_id)
    assert (mail["kind"], json.loads(mail["payload"])) == ("budget", {"max_cost": 2.5, "max_duration": "90s"})
    details = await database.fetchval("SELECT details FROM audit_logs WHERE resource_id = $1", execution_id)
    assert json.loads(details)["reason"] == "worth it"


@pytest.mark.parametrize(
    "change", [{}, {"max_cost": -1}, {"max_tokens": -1}, {"max_tokens": 1.5}, {"max_steps": "x"}, {"max_weight": 1}]
)
async def test_a_budget_that_makes_no_sense_is_refused(client, database, workflow, change):
    execution_id = await add_execution(database, workflow)
    refused(await client.patch(f"{PATH}/{execution_id}/budget", json=change), 422, "validation_error")
    assert await mail_of(database, execution_id) == []


async def test_two_people_pressing_opposite_buttons_are_both_heard_in_order(client, database, workflow):
    execution_id = await add_execution(database, workflow)
    for wish in ("pause", "resume", "pause", "cancel"):
        assert (await client.post(f"{PATH}/{execution_id}/{wish}")).status_code == 202
    kinds = [mail["kind"] for mail in await mail_of(database, execution_id)]
    assert kinds == ["pause", "resume", "pause", "cancel"]


async def in_bulk(client, action, **body):
    return await client.post(f"{PATH}/bulk", json={"action": action, **body})


async def test_a_bulk_wish_is_counted_first_and_reaches_what_is_under_way(client, database, workflow):
    ids = [await add_execution(database, workflow, status) for status in ("PAUSED", "WAITING", "COMPLETED", "FAILED")]
    chosen = {"workflow_id": workflow["id"]}
    preview = (await in_bulk(client, "cancel", filter=chosen, dry_run=True)).json()
    assert (preview["matched"], preview["applied"], preview["execution_ids"]) == (2, 0, ids[:2])
    assert await mail_of(database, ids[0]) == []
    done = (await in_bulk(client, "cancel", filter=chosen, expected_count=2, reason="wrong list")).json()
    assert (done["matched"], done["applied"], done["execution_ids"], done["dry_run"]) == (2, 2, ids[:2], False)
    for execution_id, expected in zip(ids, (1, 1, 0, 0), strict=True):
        sent = await mail_of(database, execution_id)
        assert [(mail["kind"], json.loads(mail["payload"])) for mail in sent] == [
            ("cancel", {"reason": "wrong list"})
        ] * expected
    rows = await database.fetch(
        "SELECT details FROM audit_logs WHERE action = 'executions.bulk_cancel' AND org_id = $1", workflow["org_id"]
    )
    told = [json.loads(row["details"]) for row in rows]
    assert told == [{"filter": chosen, "count": 2, "reason": "wrong list"}]
    assert [await audited(database, each) for each in ids] == [["execution.cancel_requested"]] * 2 + [[]] * 2


async def test_a_bulk_wish_is_refused_when_the_count_has_changed(client, database, workflow):
    execution_id = await add_execution(database, workflow)
    body = await in_bulk(client, "pause", filter={"ids": [execution_id, "exec_nothing"]}, expected_count=2)
    assert "1 executions" in refused(body, 409, "count_changed")["detail"]
    assert await mail_of(database, execution_id) == []


async def test_a_bulk_wish_for_too_many_is_refused(client, database, workflow, monkeypatch):
    monkeypatch.setattr(bulk, "MAX_MATCHES", 1)
    ids = [await add_execution(database, workflow) for _ in range(2)]
    refused(await in_bulk(client, "pause", filter={"status": ["paused"]}), 422, "too_many_matches")
    assert [await mail_of(database, execution_id) for execution_id in ids] == [[], []]


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"labels": {}},
        {"status": []},
        {"ids": ["x"] * 1_001},
        {"status": ["nonsense"]},
        {"created_after": "2026-01-01T00:00:00"},
    ],
)
async def test_a_bulk_wish_needs_a_filter_that_makes_sense(client, chosen):
    refused(await in_bulk(client, "cancel", filter=chosen), 422, "validation_error")


async def test_a_bulk_filter_narrows_by_all_it_is_given(client, database, workflow):
    wanted = await add_execution(database, workflow, "WAITING", labels='{"team": "sales"}', fingerprint="f1")
    await add_execution(database, workflow, "WAITING", labels='{"team": "sales"}', fingerprint="f2")
    await add_execution(database, workflow, "PAUSED", labels='{"team": "sales"}', fingerprint="f1")
    chosen = {
        "status": ["waiting"],
        "workflow_id": workflow["id"],
        "labels": {"team": "sales"},
        "fingerprint": "f1",
        "created_after": "2020-01-01T00:00:00Z",
        "created_before": "2100-01-01T00:00:00Z",
    }
    assert (await in_bulk(client, "resume", filter=chosen)).json()["execution_ids"] == [wanted]
    assert (await in_bulk(client, "resume", filter={"ids": []})).json()["matched"] == 0


async def test_a_bulk_retry_whose_answer_got_lost_is_asked_for_again_and_made_once(client, database):
    failing = {"name": "Failing", "steps": [{"id": "a", "type": "fail", "with": {"message": "no"}}]}
    workflow = await create(client, failing)
    ids = [await add_execution(database, workflow, "FAILED") for _ in range(3)]
    body = {"action": "retry", "filter": {"workflow_id": workflow["id"]}, "expected_count": 3}
    key = {"Idempotency-Key": "night-shift"}
    first = await client.post(f"{PATH}/bulk", json=body, headers=key)
    assert (first.json()["applied"], "idempotency-replayed" in first.headers) == (3, False), first.text
    for new_id in first.json()["new_execution_ids"]:  # which fail again meanwhile, and match like the first ones
        ended = await client.get(f"{PATH}/{new_id}", headers={"Prefer": "wait=20"})
        assert ended.json()["status"] == "FAILED"
    again = await client.post(f"{PATH}/bulk", json=body, headers=key)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    made = "SELECT count(*) FROM executions WHERE retry_of = ANY($1::text[])"
    assert await database.fetchval(made, ids + first.json()["new_execution_ids"]) == 3
    other = await client.post(f"{PATH}/bulk", json=body | {"expected_count": 2}, headers=key)
    refused(other, 422, "idempotency_key_reused")
    refused(
        await client.post(f"{PATH}/bulk", json=body, headers={"Idempotency-Key": ""}), 400, "invalid_idempotency_key"
    )


async def test_a_bulk_wish_with_a_key_is_sent_once_however_often_it_is_asked(client, other_client, database, workflow):
    execution_id = await add_execution(database, workflow, "WAITING")
    body = {"action": "pause", "filter": {"ids": [execution_id]}}
    key = {"Idempotency-Key": "k"}
    preview = await client.post(f"{PATH}/bulk", json=body | {"dry_run": True}, headers=key)
    answers = await asyncio.gather(*(client.post(f"{PATH}/bulk", json=body, headers=key) for _ in range(4)))
    assert {answer.json()["applied"] for answer in answers} == {1}
    assert [answer.headers.get("idempotency-replayed") for answer in answers].count("true") == 3
    assert len(await mail_of(database, execution_id)) == 1
    assert preview.json()["applied"] == 0
    elsewhere = await other_client.post(f"{PATH}/bulk", json=body, headers=key)
    assert (elsewhere.json()["matched"], "idempotency-replayed" in elsewhere.headers) == (0, False)


async def test_lists_and_bulk_wishes_narrow_alike_by_failure_ids_and_kin(client, database, workflow, other_client):
    root = await add_execution(database, workflow, "FAILED", fingerprint="f1")
    retry = await add_execution(database, workflow, "WAITING", root_id=root, retry_of=root)
    second = await add_execution(database, workflow, "WAITING", root_id=root, retry_of=retry)
    child = await add_execution(database, workflow, "WAITING", parent_id=retry)
    for chosen, found in (
        ({"fingerprint": "f1"}, [root]),
        ({"ids": [child, second, "exec_unknown"]}, [second, child]),
        ({"retry_of": retry}, [second]),
        ({"parent_id": retry}, [child]),
        ({"root_id": root}, [root, retry, second]),
        ({"root_id": root, "retry_of": root}, [retry]),
        ({"retry_of": "exec_unknown"}, []),
    ):
        listed = await client.get(PATH, params=chosen)
        assert [row["id"] for row in listed.json()["data"]] == found[::-1], chosen
        asked = (await in_bulk(client, "pause", filter=chosen, dry_run=True)).json()
        assert asked["execution_ids"] == [each for each in found if each != root], chosen
        assert (await other_client.get(PATH, params=chosen)).json()["data"] == []
    too_many = await client.get(PATH, params={"ids": ["x"] * 101})
    refused(too_many, 422, "validation_error")


async def test_a_bulk_wish_reaches_more_than_fit_into_one_notification(client, database, workflow):
    ids = [await add_execution(database, workflow) for _ in range(300)]
    done = (await in_bulk(client, "pause", filter={"workflow_id": workflow["id"]})).json()
    assert (done["applied"], len(done["execution_ids"])) == (300, 100)
    count = "SELECT count(*) FROM execution_inbox WHERE execution_id = ANY($1::text[])"
    assert await database.fetchval(count, ids) == 300


async def test_what_is_asked_at_the_start_is_stored_with_the_execution(client, database, workflow):
    start_at = (clock.now() + timedelta(days=30)).replace(microsecond=0)
    body = {
        "workflow_id": workflow["id"],
        "breakpoints": ["b"],
        "pins": {"a": {"n": 9}},
        "budget": {"max_cost": 1.5, "max_duration": "10m"},
        "start_at": start_at.astimezone(timezone(timedelta(hours=1))).isoformat(),
        "queue_ttl": "1h",
    }
    started = await client.post(PATH, json=body)
    assert started.status_code == 201, started.text
    assert started.json()["wake_at"] == f"{start_at:%Y-%m-%dT%H:%M:%SZ}"
    row = (await database.fetch("SELECT * FROM executions WHERE id = $1", started.json()["id"]))[0]
    budget = {"max_cost": 1.5, "max_duration": "10m"}
    assert json.loads(row["control"]) == {"breakpoints": ["b"], "pins": {"a": {"n": 9}}, "budget": budget}
    assert (row["status"], row["ready"]) == ("PENDING", False)
    assert (row["expires_at"] - row["wake_at"]).total_seconds() == 3600
    detail = (await client.get(f"{PATH}/{row['id']}")).json()
    assert detail["control"]["pins"] == ["a"], "the names alone: outputs may be large"
    assert detail["control"]["breakpoints"] == ["b"]
    assert detail["control"]["budget"]["max_cost"] == 1.5
    assert (detail["root_id"], detail["priority"]) == (row["id"], 0)


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"breakpoints": ["a", "nowhere"]}, "/breakpoints/1"),
        ({"pins": {"nowhere": 1}}, "/pins/nowhere"),
        ({"start_at": "2200-01-01T00:00:00Z"}, "/start_at"),
        ({"start_at": "0001-01-01T00:00:00+14:00"}, "/start_at"),
        ({"start_at": "9999-12-31T23:59:59-14:00"}, "/start_at"),
        ({"start_at": "2026-12-24T06:00:00"}, "/start_at"),
        ({"queue_ttl": "soon"}, "/queue_ttl"),
        ({"budget": {"max_cost": -1}}, "/budget/max_cost"),
    ],
)
async def test_options_of_a_start_that_make_no_sense_are_refused(client, database, workflow, options, pointer):
    answer = await client.post(PATH, json={"workflow_id": workflow["id"], **options})
    assert set(codes(refused(answer, 422, "validation_error")["errors"])) == {pointer}
    count = "SELECT count(*) FROM executions WHERE workflow_id = $1"
    assert await database.fetchval(count, workflow["id"]) == 0


async def test_a_repeated_start_with_other_options_is_another_request(client, workflow):
    headers = {"Idempotency-Key": f"options-{workflow['id']}"}
    body = {"workflow_id": workflow["id"], "start_at": (clock.now() + timedelta(days=30)).isoformat()}
    first = await client.post(PATH, json=body, headers=headers)
    again = await client.post(PATH, json=body, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    refused(await client.post(PATH, json=body | {"pins": {"a": 1}}, headers=headers), 422, "idempotency_key_reused")


async def test_mail_of_all_kinds_is_read_in_the_order_it_was_sent(client, database, workflow):
    """Mail is ordered by its ids; one kind's ids must not sort before another's."""
    execution_id = await add_execution(database, workflow)
    for kind in ("signal", "pause", "signal", "cancel"):
        body = {"name": "go"} if kind == "signal" else {}
        assert (await client.post(f"{PATH}/{execution_id}/{kind}", json=body)).status_code == 202
    assert [mail["kind"] for mail in await mail_of(database, execution_id)] == ["signal", "pause", "signal", "cancel"]
