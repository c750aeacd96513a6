"""Many executions started with one request, as REST clients see it."""

import pytest

from tests.api.test_executions import HELLO, save

BATCH = "/api/v1/executions/batch"
PICKY = HELLO | {"name": "Picky", "input": {"type": "object", "required": ["city"]}}


async def start(client, items, **headers):
    answer = await client.post(BATCH, json={"executions": items}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["data"]


async def executions_of(database, workflow_id):
    return await database.fetchval("SELECT count(*) FROM executions WHERE workflow_id = $1", workflow_id)


async def test_each_is_started_and_answered_in_its_place(client):
    hello, picky = await save(client), await save(client, PICKY)
    items = [
        {"workflow_id": hello, "input": 1, "labels": {"n": "one"}},
        {"workflow_id": "wf_unknown"},
        {"workflow_id": picky, "input": "Berlin"},
        {"workflow_id": picky, "input": {"city": "Berlin"}, "priority": 5},
    ]
    answers = await start(client, items)
    assert [answer["status"] for answer in answers] == [201, 404, 422, 201]
    assert [(answer["problem"] or {}).get("code") for answer in answers] == [
        None, "not_found", "input_schema_mismatch", None,
    ]  # fmt: skip
    assert [answer["execution"] is None for answer in answers] == [False, True, True, False]
    first = answers[0]["execution"]
    assert (first["status"], first["input_data"], first["labels"]) == ("PENDING", 1, {"n": "one"})
    ended = (await client.get(f"/api/v1/executions/{first['id']}", headers={"Prefer": "wait=20"})).json()
    assert ended["output"] == {"text": "hello 1"}


async def test_prefer_wait_answers_when_all_have_ended(client):
    hello = await save(client)
    items = [{"workflow_id": hello, "input": n} for n in range(100)]
    answers = await start(client, items, Prefer="wait=30")
    assert {(answer["status"], answer["execution"]["status"]) for answer in answers} == {(200, "COMPLETED")}
    assert [answer["execution"]["output"]["text"] for answer in answers] == [f"hello {n}" for n in range(100)]


async def test_waiting_ends_with_the_time_and_shows_how_each_stands(client):
    waits = {"name": "Waits", "steps": [{"id": "go", "type": "wait_for_signal", "with": {"signal": "go"}}]}
    hello, waiting = await save(client), await save(client, waits)
    answers = await start(client, [{"workflow_id": hello}, {"workflow_id": waiting}], Prefer="wait=2")
    assert [answer["status"] for answer in answers] == [200, 201]
    assert answers[0]["execution"]["status"] == "COMPLETED"
    assert answers[1]["execution"]["status"] in {"RUNNING", "WAITING"}


@pytest.mark.parametrize("wait", [{}, {"Prefer": "wait=20"}])
async def test_a_key_for_the_whole_batch_makes_it_safe_to_repeat(client, database, wait):
    hello = await save(client)
    items = [{"workflow_id": hello, "input": n} for n in range(5)]
    headers = {"Idempotency-Key": f"import-{len(wait)}"} | wait
    first = await start(client, items, **headers)
    again = await start(client, items, **headers)
    assert [a["execution"]["id"] for a in again] == [a["execution"]["id"] for a in first]
    assert [a["replayed"] for a in first] == [False] * 5
    assert [a["replayed"] for a in again] == [True] * 5
    assert {a["status"] for a in again} == ({200} if wait else {201})
    assert await executions_of(database, hello) == 5


async def test_keys_of_their_own_are_those_of_single_requests(client, database):
    hello = await save(client)
    single = await client.post(
        "/api/v1/executions", json={"workflow_id": hello, "input": 1}, headers={"Idempotency-Key": "order-1"}
    )
    items = [
        {"workflow_id": hello, "input": 1, "idempotency_key": "order-1"},
        {"workflow_id": hello, "input": 2, "idempotency_key": "order-1"},
        {"workflow_id": hello, "input": 3, "idempotency_key": "order-3"},
        {"workflow_id": hello, "input": 3, "idempotency_key": "order-3"},
    ]
    answers = await start(client, items, **{"Idempotency-Key": "import-8"})
    assert [answer["status"] for answer in answers] == [201, 422, 201, 201]
    assert answers[0]["execution"]["id"] == single.json()["id"]
    assert answers[1]["problem"]["code"] == "idempotency_key_reused"
    assert answers[2]["execution"]["id"] == answers[3]["execution"]["id"]
    assert sorted(answer["replayed"] for answer in answers) == [False, False, True, True]
    assert await executions_of(database, hello) == 2


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/executions"),
        ({"executions": []}, "/executions"),
        ({"executions": [{"workflow_id": "wf_x"}] * 101}, "/executions"),
        ({"executions": [{"workflow_id": "wf_x"}, {}]}, "/executions/1/workflow_id"),
        ({"executions": [{"workflow_id": "wf_x", "nonsense": 1}]}, "/executions/0/nonsense"),
        ({"executions": [{"workflow_id": "wf_x", "idempotency_key": ""}]}, "/executions/0/idempotency_key"),
        ({"executions": [{"workflow_id": "wf_x", "idempotency_key": "caf\u00e9"}]}, "/executions/0/idempotency_key"),
        ({"executions": [{"workflow_id": "wf_x", "idempotency_key": "x" * 256}]}, "/executions/0/idempotency_key"),
    ],
)
async def test_a_body_that_is_not_valid_starts_nothing(client, database, body, pointer):
    before = await database.fetchval("SELECT count(*) FROM executions")
    answer = await client.post(BATCH, json=body)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert await database.fetchval("SELECT count(*) FROM executions") == before
