"""Executions as REST clients see them: start, wait, read, list, cancel."""

import asyncio
import json

import pytest

HELLO = {
    "name": "Hello",
    "steps": [
        {"id": "greet", "type": "log", "with": {"message": "hello ${{ input }}"}},
        {"id": "answer", "type": "set", "needs": ["greet"], "with": {"text": "${{ steps.greet.output.message }}"}},
    ],
}


async def save(client, definition=HELLO):
    answer = await client.post("/api/v1/workflows", json=definition)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def test_the_origins_own_request_works_byte_for_byte(client):
    """A string as input, a trailing slash, and the id in the answer (bugs 1 and 8)."""
    workflow_id = await save(client)
    body = b'{"workflow_id": "' + workflow_id.encode() + b'", "input": "Find leads"}'
    answer = await client.post("/api/v1/executions/", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201
    record = answer.json()
    assert record["id"].startswith("exec_")
    assert record["status"] == "PENDING"
    assert record["input_data"] == "Find leads"
    assert answer.headers["location"] == f"/api/v1/executions/{record['id']}"
    ended = (await client.get(f"/api/v1/executions/{record['id']}/", headers={"Prefer": "wait=20"})).json()
    assert ended["status"] == "COMPLETED"
    assert ended["output"] == {"text": "hello Find leads"}
    assert [step["status"] for step in ended["steps"]] == ["COMPLETED", "COMPLETED"]


async def test_prefer_wait_answers_with_the_result(client):
    workflow_id = await save(client)
    answer = await client.post(
        f"/api/v1/workflows/{workflow_id}/execute", json={"input": 1}, headers={"Prefer": "wait=20"}
    )
    assert answer.status_code == 200
    assert answer.json()["status"] == "COMPLETED"
    assert answer.json()["execution_graph"]["order"] == ["greet", "answer"]


async def test_an_empty_body_executes_a_workflow(client):
    workflow_id = await save(client)
    answer = await client.post(f"/api/v1/workflows/{workflow_id}/execute")
    assert answer.status_code == 201
    assert answer.json()["input_data"] is None


async def test_a_repeated_request_with_a_key_is_the_same_execution(client):
    workflow_id = await save(client)
    body = {"workflow_id": workflow_id, "input": "x"}
    headers = {"Idempotency-Key": "order-1"}
    first = await client.post("/api/v1/executions", json=body, headers=headers)
    await client.get(f"/api/v1/executions/{first.json()['id']}", headers={"Prefer": "wait=20"})
    again = await client.post("/api/v1/executions", json=body, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json()), "the original answer, although it has ended"
    assert again.headers["idempotency-replayed"] == "true"
    waited = await client.post("/api/v1/executions", json=body, headers=headers | {"Prefer": "wait=20"})
    assert (waited.status_code, waited.json()["status"]) == (200, "COMPLETED")
    by_path = await client.post(f"/api/v1/workflows/{workflow_id}/execute", json={"input": "x"}, headers=headers)
    assert by_path.json()["id"] == first.json()["id"]


async def test_a_key_answers_what_it_stands_for_though_the_workflow_takes_no_more_executions(client, database):
    """Whoever got no answer asks again, and must not hear that nothing was started."""
    workflow_id = await save(client)
    headers, body = {"Idempotency-Key": "before"}, {"workflow_id": workflow_id, "input": "x"}
    first = await client.post("/api/v1/executions", json=body, headers=headers)
    await database.execute("UPDATE workflows SET archived_at = now() WHERE id = $1", workflow_id)
    again = await client.post("/api/v1/executions", json=body, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    other = await client.post("/api/v1/executions", json=body, headers={"Idempotency-Key": "after"})
    assert other.status_code == 409


async def test_a_key_that_stands_for_another_request_is_refused(client, database):
    workflow_id = await save(client)
    headers = {"Idempotency-Key": "order-2"}
    await client.post("/api/v1/executions", json={"workflow_id": workflow_id, "input": 1}, headers=headers)
    before = await database.fetchval("SELECT count(*) FROM executions")
    answer = await client.post("/api/v1/executions", json={"workflow_id": workflow_id, "input": 2}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert await database.fetchval("SELECT count(*) FROM executions") == before


async def test_simultaneous_requests_with_one_key_create_one_execution(client, database):
    workflow_id = await save(client)
    body = {"workflow_id": workflow_id, "input": None}
    answers = await asyncio.gather(
        *(client.post("/api/v1/executions", json=body, headers={"Idempotency-Key": "race"}) for _ in range(20))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 19


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9"])
async def test_a_key_that_cannot_be_used_is_refused(client, key):
    workflow_id = await save(client)
    answer = await client.post(
        "/api/v1/executions", json={"workflow_id": workflow_id}, headers={"Idempotency-Key": key.encode("latin-1")}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


BROKEN = {
    "name": "Broken",
    "steps": [{"id": "a", "type": "set", "needs": ["b"]}, {"id": "b", "type": "set", "needs": ["a"]}],
}


async def test_a_draft_is_saved_with_its_problems_and_never_started(client, database):
    saved = await client.post("/api/v1/workflows?draft=true", json=BROKEN)
    assert saved.status_code == 201
    assert {problem["code"] for problem in saved.json()["problems"]} == {"graph_cycle"}
    answer = await client.post("/api/v1/executions", json={"workflow_id": saved.json()["id"]})
    assert (answer.status_code, answer.json()["code"]) == (422, "workflow_invalid")
    assert {error["code"] for error in answer.json()["errors"]} == {"graph_cycle"}
    count = "SELECT count(*) FROM executions WHERE workflow_id = $1"
    assert await database.fetchval(count, saved.json()["id"]) == 0


async def test_missing_model_configuration_is_said_in_words_before_the_run(client, database):
    """Bug 3: the user saw a NoneType error although a connector setting was missing."""
    definition = {
        "name": "Agent",
        "steps": [{"id": "ask", "type": "agent", "with": {"model": "openai:gpt-4o", "prompt": "hi"}}],
    }
    workflow_id = await save(client, definition)
    answer = await client.post("/api/v1/executions", json={"workflow_id": workflow_id})
    assert (answer.status_code, answer.json()["code"]) == (422, "workflow_invalid")
    assert answer.json()["errors"][0]["code"] == "model_not_configured"
    assert "OPENAI_API_KEY" in answer.json()["detail"]
    assert await database.fetchval("SELECT count(*) FROM executions WHERE workflow_id = $1", workflow_id) == 0


async def test_the_input_is_checked_against_the_workflows_schema(client):
    definition = HELLO | {"input": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}
    workflow_id = await save(client, definition)
    answer = await client.post("/api/v1/executions", json={"workflow_id": workflow_id, "input": {"n": "secret"}})
    assert (answer.status_code, answer.json()["code"]) == (422, "input_schema_mismatch")
    assert answer.json()["errors"][0]["pointer"] == "/input/n"
    assert "secret" not in answer.text


async def test_lists_filter_by_status_workflow_and_label_and_page_by_cursor(client):
    workflow_id = await save(client)
    ids = []
    for number in range(5):
        body = {"workflow_id": workflow_id, "input": number, "labels": {"n": str(number % 2)}}
        answer = await client.post("/api/v1/executions", json=body, headers={"Prefer": "wait=20"})
        ids.append(answer.json()["id"])
    listed = []
    url = "/api/v1/executions/?status=success&limit=2"
    while url:
        page = await client.get(url)
        assert page.status_code == 200
        listed += [row["id"] for row in page.json()["data"]]
        url = page.links["next"]["url"] if page.json()["has_more"] else None
    assert listed == ids[::-1]
    assert (await client.get("/api/v1/executions?status=queued&status=FAILED")).json()["data"] == []
    labelled = await client.get("/api/v1/executions?label.n=1")
    assert [row["id"] for row in labelled.json()["data"]] == [ids[3], ids[1]]
    latest = await client.get(f"/api/v1/workflows/{workflow_id}/executions?latest=true")
    assert [row["id"] for row in latest.json()["data"]] == [ids[4]]
    metrics = (await client.get("/api/v1/executions/metrics")).json()
    assert (metrics["total"], metrics["success_rate"]) == (5, 1.0)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("status=nonsense", "validation_error"),
        ("limit=0", "validation_error"),
        ("limit=201", "validation_error"),
        ("limit=abc", "validation_error"),
        ("cursor=abc", "invalid_cursor"),
        ("created_after=yesterday", "validation_error"),
        ("created_after=2030-01-01T00:00:00", "validation_error"),
        ("created_before=2030-01-01", "validation_error"),
    ],
)
async def test_a_bad_query_is_a_422(client, query, code):
    answer = await client.get(f"/api/v1/executions?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_a_cursor_of_another_organisation_is_refused(client, other_client):
    workflow_id = await save(client)
    for _ in range(2):
        await client.post("/api/v1/executions", json={"workflow_id": workflow_id})
    cursor = (await client.get("/api/v1/executions?limit=1")).json()["next_cursor"]
    answer = await other_client.get("/api/v1/executions", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")


async def test_cancel_is_durable_and_refused_once_it_has_ended(client, database):
    definition = {"name": "Long", "steps": [{"id": "a", "type": "delay", "with": {"duration": "1h"}}]}
    workflow_id = await save(client, definition)
    execution_id = (await client.post("/api/v1/executions", json={"workflow_id": workflow_id})).json()["id"]
    answer = await client.post(f"/api/v1/executions/{execution_id}/cancel", json={"reason": "wrong input"})
    assert answer.status_code == 202
    ended = (await client.get(f"/api/v1/executions/{execution_id}", headers={"Prefer": "wait=20"})).json()
    assert (ended["status"], ended["error_code"], ended["output"]) == ("CANCELLED", "execution_cancelled", None)
    assert ended["error"] == "wrong input"
    again = await client.post(f"/api/v1/executions/{execution_id}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "invalid_state")
    workflow = (await client.get(f"/api/v1/workflows/{workflow_id}")).json()
    assert (workflow["execution_count"], workflow["cancelled_count"]) == (1, 1)
    actions = "SELECT action FROM audit_logs WHERE resource_id = $1 ORDER BY id"
    found = [row["action"] for row in await database.fetch(actions, execution_id)]
    assert found == ["execution.created", "execution.cancel_requested"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b'{"workflow_id": "x", "input": NaN}', {}, 400, "invalid_json"),
        (b"not json", {}, 400, "invalid_json"),
        (b"", {}, 400, "invalid_json"),
        (b"[1]", {}, 422, "validation_error"),
        (b'{"workflow_id": "x", "org_id": "org_other"}', {}, 422, "validation_error"),
        (b'{"workflow_id": "x"}', {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b'{"workflow_id": "wf_none"}', {}, 404, "not_found"),
        (b'{"workflow_id": "x", "input": ' + b"[" * 100 + b"]" * 100 + b"}", {}, 400, "json_too_deep"),
        (b'{"workflow_id": "x", "input": "' + b"a" * (1 << 20) + b'"}', {}, 413, "body_too_large"),
    ],
)
async def test_a_bad_body_gets_a_clear_answer_and_changes_nothing(client, database, body, headers, status, code):
    before = await database.fetchval("SELECT count(*) FROM executions")
    answer = await client.post(
        "/api/v1/executions", content=body, headers={"Content-Type": "application/json"} | headers
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert await database.fetchval("SELECT count(*) FROM executions") == before


async def test_payloads_come_back_as_they_were_sent(client):
    workflow_id = await save(client, {"name": "Echo", "steps": [{"id": "a", "type": "log", "with": {"message": "x"}}]})
    value = {"text": "NUL \u0000 and \U0001f600", "big": 2**62, "float": -0.0, "none": None, "list": [[], {}]}
    record = (await client.post("/api/v1/executions", json={"workflow_id": workflow_id, "input": value})).json()
    assert record["input_data"] == value
    assert (await client.get(f"/api/v1/executions/{record['id']}")).json()["input_data"] == value


async def test_the_log_of_a_run_reads_like_a_log(client):
    workflow_id = await save(client)
    started = await client.post(
        "/api/v1/executions", json={"workflow_id": workflow_id, "input": "you"}, headers={"Prefer": "wait=20"}
    )
    execution_id = started.json()["id"]
    url = f"/api/v1/executions/{execution_id}/logs"
    text = (await client.get(url, headers={"Accept": "text/plain"})).text
    assert text.splitlines() == [
        f"[INFO] [{execution_id}] [workflow] Starting workflow 'Hello'",
        f"[INFO] [{execution_id}] [workflow] Execution order: greet → answer",
        f"[INFO] [{execution_id}] [greet] Executing step 'greet'",
        f"[INFO] [{execution_id}] [greet] hello you",
        f"[INFO] [{execution_id}] [answer] Executing step 'answer'",
        f"[INFO] [{execution_id}] [workflow] Workflow 'Hello' completed",
    ]
    entries = (await client.get(url)).json()["data"]
    assert [entry["message"] for entry in entries][:1] == ["Starting workflow 'Hello'"]
    of_one = (await client.get(url, params={"step_id": "greet"})).json()["data"]
    assert [(entry["scope"], entry["message"]) for entry in of_one] == [
        ("greet", "Executing step 'greet'"), ("greet", "hello you"),
    ]  # fmt: skip


async def test_runs_that_start_each_other_by_http_do_so_eight_times(client, database):
    """The header is that of the step `http.request`, which adds one."""
    path, kept = f"/api/v1/workflows/{await save(client)}/execute", []
    for hops in ("8", "-1", "1_0", "x" * 99):
        answer = await client.post(path, json={"input": "x"}, headers={"Stepstream-Hops": hops})
        assert answer.status_code == 201
        control = await database.fetchval("SELECT control FROM executions WHERE id = $1", answer.json()["id"])
        kept.append(json.loads(control))
    assert kept == [{"hops": 8}, {}, {}, {}]
    looping = await client.post(path, json={"input": "x"}, headers={"Stepstream-Hops": "9"})
    assert (looping.status_code, looping.json()["code"]) == (422, "loop_detected")
