"""Ten bugs that earlier back ends of this kind had, each of which must never come back."""

import asyncio
import json

import pytest
import websockets

from app.domain.states import ExecutionStatus
from tests.api.test_executions import save

FAILING = {
    "name": "Failing",
    "steps": [
        {"id": "first", "type": "set", "with": {"ok": True}},
        {
            "id": "second",
            "type": "fail",
            "needs": ["first"],
            "with": {"message": "the CRM connector has no API key", "code": "connector_missing"},
        },
        {"id": "third", "type": "log", "needs": ["second"], "with": {"message": "never"}},
    ],
}


async def run(client, definition, value=None):
    workflow_id = await save(client, definition)
    answer = await client.post(
        "/api/v1/executions",
        json={"workflow_id": workflow_id, "input": value},
        headers={"Prefer": "wait=20", "User-Agent": "old-client/1.0"},
    )
    assert answer.status_code == 200
    return answer.json()


async def events_of(client, execution_id):
    return (await client.get(f"/api/v1/executions/{execution_id}/events?limit=1000")).json()["data"]


async def test_1_the_record_is_pending_before_it_is_running(client, database):
    workflow_id = await save(client)
    async with database.connected() as onlooker:
        await onlooker.execute("BEGIN; LOCK TABLE execution_inbox IN ACCESS EXCLUSIVE MODE")  # the claim waits for it
        started = await client.post("/api/v1/executions", json={"workflow_id": workflow_id})
        assert started.json()["status"] == "PENDING"
        status = await database.fetchval("SELECT status FROM executions WHERE id = $1", started.json()["id"])
        assert status == "PENDING", "durable, and visible to others, when the answer arrives"
        await onlooker.execute("ROLLBACK")
    await client.get(f"/api/v1/executions/{started.json()['id']}", headers={"Prefer": "wait=20"})
    events = await events_of(client, started.json()["id"])
    assert (events[0]["type"], events[0]["seq"]) == ("execution_queued", 1)


@pytest.mark.parametrize("status", [*ExecutionStatus, "queued", "success"])
async def test_2_every_status_can_be_listed_in_any_case(client, status):
    for word in (status.upper(), status.lower(), status.title()):
        assert (await client.get("/api/v1/executions", params={"status": word})).status_code == 200


async def test_3_the_first_cause_is_shown_with_its_code(client):
    ended = await run(client, FAILING)
    assert (ended["error"], ended["error_code"]) == ("the CRM connector has no API key", "connector_missing")


async def test_4_the_audit_row_of_a_failed_run_says_who_from_where_and_why(client, owner):
    ended = await run(client, FAILING)
    log = await client.get("/api/v1/audit-logs", params={"action": "workflow.executed"})
    (row,) = log.json()["data"]
    assert (row["resource_type"], row["resource_id"]) == ("workflow", ended["workflow_id"])
    assert (row["user_id"], row["ip_address"], row["user_agent"]) == (owner.user_id, "127.0.0.1", "old-client/1.0")
    assert (row["success"], row["error_message"]) == (False, "the CRM connector has no API key")
    assert row["details"]["execution_id"] == ended["id"]


async def test_5_a_failed_run_has_no_output(client):
    ended = await run(client, FAILING)
    assert ended["output"] is None


async def test_6_a_failed_run_keeps_its_progress_and_never_completes(client):
    ended = await run(client, FAILING)
    events = await events_of(client, ended["id"])
    assert [event["type"] for event in events if event["type"].startswith("execution_")] == [
        "execution_queued",
        "execution_started",
        "execution_failed",
    ]
    assert events[-1]["data"]["progress"] == events[-1]["progress"] == ended["progress"] == 66
    progress = [event["progress"] for event in events]
    assert progress == sorted(progress)


async def test_7_a_client_that_switches_on_type_and_reads_progress_gets_every_event(client, owner, live):
    workflow_id = await save(client)
    started = await client.post("/api/v1/executions/", json={"workflow_id": workflow_id, "input": "x"})
    url = f"{live.url.replace('http', 'ws')}/api/v1/workflows/stream/{started.json()['id']}"
    bar = []
    async with websockets.connect(url, additional_headers={"Authorization": f"Bearer {owner.token}"}) as socket:
        async for text in socket:
            message = json.loads(text)
            match message["type"]:
                case "step_completed" | "execution_completed":
                    bar.append((message["data"]["progress"], message["progress"]))
    assert bar == [(50, 50), (100, 100), (100, 100)]


async def test_8_start_answers_with_the_id_to_follow(client):
    workflow_id = await save(client)
    started = await client.post(f"/api/v1/workflows/{workflow_id}/execute/", json={"input": 1})
    assert (await client.get(started.headers["location"])).json()["id"] == started.json()["id"]


async def test_10_counters_are_exact_under_concurrency(client):
    good, bad = await save(client), await save(client, FAILING)
    answers = await asyncio.gather(
        *(
            client.post("/api/v1/executions", json={"workflow_id": workflow_id}, headers={"Prefer": "wait=30"})
            for workflow_id in [good, bad] * 30
        )
    )
    assert {answer.status_code for answer in answers} == {200}
    for workflow_id, counter in ((good, "success_count"), (bad, "failure_count")):
        stats = (await client.get(f"/api/v1/workflows/{workflow_id}/stats")).json()
        assert (stats["execution_count"], stats[counter]) == (30, 30)
        assert stats["last_executed_at"] is not None
