"""Understanding runs over HTTP: explain, diff, timeline, graph, and failure groups, each within one organisation."""

import json
from datetime import timedelta
from typing import Any

import jsonpatch
import pytest
from starlette.requests import Request

from app import clock
from app.api.v1.execution_answer import execution_answer
from app.api.v1.schemas.outlook import WithOutlook
from app.auth.principal import Caller
from app.domain.estimate import UNKNOWN
from app.domain.fingerprint import fingerprint
from app.domain.jsontext import encode
from app.services.insight import Outlook
from tests.api import control_calls
from tests.api.control_calls import add_approval, add_step
from tests.api.workflow_calls import create, put

PATH = "/api/v1/executions"
CHAIN: dict[str, Any] = {
    "name": "Chain",
    "steps": [
        {"id": "fetch", "type": "set", "with": {"value": 1}},
        {"id": "ask", "type": "set", "needs": ["fetch"], "with": {"value": 2}, "timeout": "60s"},
        {"id": "send", "type": "set", "needs": ["ask"], "with": {"value": 3}},
    ],
}


def now_plus(seconds: float) -> Any:
    return clock.now() + timedelta(seconds=seconds)


async def add_execution(database: Any, workflow: dict[str, Any], status: str, **columns: Any) -> str:
    """An execution as recorded, with the owner it is given or none."""
    return await control_calls.add_execution(database, workflow, status, **{"owner": None} | columns)


@pytest.fixture
async def chain(client) -> dict[str, Any]:
    """A workflow of three steps."""
    return await create(client, CHAIN)


async def explained(client: Any, execution_id: str) -> dict[str, Any]:
    answer = await client.get(f"{PATH}/{execution_id}/explain")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_completed_run_has_ended(client):
    workflow = await create(client, CHAIN)
    run = await client.post(f"/api/v1/workflows/{workflow['id']}/execute", headers={"Prefer": "wait=20"})
    found = await explained(client, run.json()["id"])
    assert (found["status"], found["code"], found["details"]["outcome"]) == ("COMPLETED", "ended", "COMPLETED")


async def test_a_paused_run_is_explained_by_what_paused_it(client, database, chain):
    control = encode({"pause": {"reason": "breakpoint", "at": "ask", "detail": "before ask"}})
    execution_id = await add_execution(database, chain, "PAUSED", control=control)
    found = await explained(client, execution_id)
    assert found["code"] == "breakpoint"
    assert found["blocker"] == {"type": "step", "id": "ask", "url": f"{PATH}/{execution_id}/steps/ask"}
    budget = await add_execution(database, chain, "PAUSED", status_reason="budget_exceeded")
    assert (await explained(client, budget))["code"] == "budget_exceeded"


async def test_a_waiting_run_is_explained_by_its_waiting_step(client, database, chain):
    wake_at = now_plus(600)
    execution_id = await add_execution(database, chain, "WAITING", wake_at=wake_at)
    await add_step(
        database, chain, execution_id, "ask", "WAITING", reason="retry", wake_at=wake_at, attempt=2, error="HTTP 503",
        error_code="http_error",
    )  # fmt: skip
    found = await explained(client, execution_id)
    assert found["code"] == "retry_backoff"
    assert "HTTP 503" in found["message"]
    assert found["moves_at"] == wake_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert found["details"]["steps"][0]["timeout_seconds"] == 60


@pytest.mark.parametrize(
    ("kind", "topics", "code", "url"),
    [
        ("signal", ["paid", "refunded"], "signal", "{own}/signal"),
        ("child", ["exec_child"], "child", "/api/v1/executions/exec_child"),
        ("approval", ["appr_x"], "approval", "/api/v1/approvals/appr_x"),
    ],
)
async def test_who_waits_for_mail_names_what_must_come(client, database, chain, kind, topics, code, url):
    execution_id = await add_execution(database, chain, "WAITING")
    awaits = encode({"kind": kind, "topics": topics, "mode": "any", "details": {}})
    await add_step(database, chain, execution_id, "ask", "WAITING", reason=kind, awaits=awaits)
    found = await explained(client, execution_id)
    assert (found["code"], found["blocker"]["id"]) == (code, topics[0])
    assert found["blocker"]["url"] == url.format(own=f"{PATH}/{execution_id}")


async def test_who_waits_for_all_of_several_signals_names_those_that_have_not_come(client, database, chain):
    execution_id = await add_execution(database, chain, "WAITING")
    awaits = encode({"kind": "signal", "topics": ["paid", "packed", "sent"], "mode": "all", "details": {}})
    await add_step(database, chain, execution_id, "ask", "WAITING", reason="signal", awaits=awaits)
    for name, used_by in (("paid", None), ("packed", "fetch")):
        await database.execute(
            "INSERT INTO execution_inbox (id, org_id, execution_id, kind, topic, applied_at, consumed_by) "
            "VALUES ($1, $2, $3, 'signal', $4, now(), $5)",
            clock.new_id("mail"), chain["org_id"], execution_id, name, used_by,
        )  # fmt: skip
    found = await explained(client, execution_id)
    assert (found["blocker"]["id"], found["details"]["signals"]) == ("packed", ["packed", "sent"])
    assert "'packed' and 'sent'" in found["message"]


async def test_the_gate_of_a_run_is_an_approval(client, database, chain):
    execution_id = await add_execution(database, chain, "WAITING")
    approval_id = await add_approval(database, {"id": execution_id, "org_id": chain["org_id"]})
    await database.execute("UPDATE approvals SET path = NULL WHERE id = $1", approval_id)
    found = await explained(client, execution_id)
    assert (found["code"], found["blocker"]["url"]) == ("approval", f"/api/v1/approvals/{approval_id}")


async def test_a_run_behind_its_users_limit_names_who_holds_the_slots(client, database, chain):
    holders = [await add_execution(database, chain, "RUNNING") for _ in range(10)]
    execution_id = await add_execution(database, chain, "PENDING", ready=True)
    behind = await add_execution(database, chain, "PENDING", ready=True)
    found = await explained(client, execution_id)
    assert found["code"] == "user_limit"
    assert found["blocker"] == {"type": "execution", "id": holders[0], "url": f"{PATH}/{holders[0]}"}
    assert (found["details"]["held"], found["details"]["limit"], found["details"]["ahead"]) == (10, 10, 0)
    assert (await explained(client, behind))["details"]["ahead"] == 1


async def test_a_run_behind_its_concurrency_key_or_rate_says_so(client, database, chain):
    key = {"concurrency_key": "wf:berlin", "concurrency_limit": 1, "on_limit": "queue"}
    holder = await add_execution(database, chain, "RUNNING", **key)
    waiting = await add_execution(database, chain, "PENDING", ready=True, **key)
    found = await explained(client, waiting)
    assert (found["code"], found["blocker"]["id"]) == ("concurrency_limit", holder)
    rate = {"rate_key": "wf", "rate_limit": 1, "rate_seconds": 3600.0}
    await add_execution(database, chain, "COMPLETED", created_at=now_plus(-601), started_at=now_plus(-600), **rate)
    limited = await add_execution(database, chain, "PENDING", ready=True, **rate)
    found = await explained(client, limited)
    assert found["code"] == "rate_limit"
    assert found["moves_at"] is not None


async def test_a_delayed_start_moves_at_its_time(client, database, chain):
    execution_id = await add_execution(database, chain, "PENDING", wake_at=now_plus(3_600))
    found = await explained(client, execution_id)
    assert (found["code"], found["moves_at"] is not None) == ("delayed_start", True)


async def test_a_step_that_runs_is_shown_with_its_timeout(client, database, chain):
    execution_id = await add_execution(database, chain, "RUNNING", owner=control_calls.ELSEWHERE)
    await add_step(database, chain, execution_id, "ask", "RUNNING", attempt_started_at=clock.now())
    found = await explained(client, execution_id)
    assert (found["code"], found["blocker"]["id"], found["moves_at"] is not None) == ("running", "ask", True)


async def two_runs(database: Any, workflow: dict[str, Any], other: dict[str, Any]) -> tuple[str, str]:
    """A success, and after it a failure of another version that parts from it at `ask`."""
    good = await add_execution(
        database, workflow, "COMPLETED", input_data='{"city":"Berlin"}', output='{"n":1}', duration_seconds=2.0,
        cost=0.5, tokens_used=10,
    )  # fmt: skip
    await add_step(database, workflow, good, "fetch", "COMPLETED", step_number=1, input="1", output='{"rows":[1,2]}')
    await add_step(
        database,
        workflow,
        good,
        "ask",
        "COMPLETED",
        step_number=2,
        input='{"q":1}',
        output="2",
        execution_time_ms=100.0,
    )
    await add_step(database, workflow, good, "send", "COMPLETED", step_number=3, input="3", output="3")
    bad = await add_execution(
        database, other, "FAILED", input_data='{"city":"Hamburg"}', error="HTTP 503", error_code="http_error",
        duration_seconds=3.5, cost=0.25, tokens_used=4,
    )  # fmt: skip
    await add_step(database, other, bad, "fetch", "COMPLETED", step_number=1, input="1", output='{"rows":[1,2]}')
    await add_step(
        database, other, bad, "ask", "FAILED", step_number=2, input='{"q":1}', error="HTTP 503",
        error_code="http_error", execution_time_ms=150.0,
    )  # fmt: skip
    return good, bad


async def second_version(client: Any, workflow: dict[str, Any]) -> dict[str, Any]:
    document = CHAIN | {"steps": [*CHAIN["steps"][:2], CHAIN["steps"][2] | {"with": {"value": 4}}]}
    answer = await put(client, workflow["id"], document, "*")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_failure_is_compared_with_the_last_success(client, database, chain):
    good, bad = await two_runs(database, chain, await second_version(client, chain))
    diff = (await client.get(f"{PATH}/{bad}/diff")).json()
    assert (diff["left"]["id"], diff["right"]["id"]) == (good, bad)
    assert diff["same_input"] is False
    assert diff["input_patch"] == [{"op": "replace", "path": "/city", "value": "Hamburg"}]
    assert diff["definition_changes"] == [{"op": "replace", "path": "/steps/2/with/value", "value": 4}]
    assert diff["first_divergence"] == {
        "step_id": "ask", "what": "status", "detail": "Step 'ask' is FAILED instead of COMPLETED: HTTP 503",
    }  # fmt: skip
    by_id = {step["step_id"]: step for step in diff["steps"]}
    assert [*by_id] == ["fetch", "ask", "send"]
    assert by_id["fetch"]["output_patch"] is None
    assert by_id["ask"]["duration_delta_ms"] == 50.0
    assert jsonpatch.apply_patch(2, by_id["ask"]["output_patch"]) is None
    assert (by_id["send"]["left_status"], by_id["send"]["right_status"]) == ("COMPLETED", None)
    assert (diff["duration_delta_seconds"], diff["cost_delta"], diff["tokens_delta"]) == (1.5, -0.25, -6)
    assert diff["cut"] == []


async def test_two_runs_are_compared_in_the_order_asked_for(client, database, chain):
    good, bad = await two_runs(database, chain, chain)
    there = (await client.get(f"{PATH}/{good}/diff/{bad}")).json()
    back = (await client.get(f"{PATH}/{bad}/diff/{good}")).json()
    assert (there["left"]["id"], back["left"]["id"]) == (good, bad)
    assert there["definition_changes"] is None
    assert there["tokens_delta"] == -back["tokens_delta"] == -6
    same = (await client.get(f"{PATH}/{good}/diff/{good}")).json()
    assert same["same_input"] is True
    assert same["first_divergence"] is None
    assert all(step["input_patch"] is step["output_patch"] is None for step in same["steps"])


async def test_large_payloads_are_only_said_to_differ(client, database, chain):
    good, bad = [await add_execution(database, chain, status) for status in ("COMPLETED", "FAILED")]
    for execution_id, letter in ((good, "x"), (bad, "y")):
        await add_step(database, chain, execution_id, "fetch", "COMPLETED", output=encode(letter * 100_000), input="1")
    diff = (await client.get(f"{PATH}/{bad}/diff")).json()
    assert diff["steps"][0]["output_patch"] == []
    assert diff["cut"] == ["/steps/0/output_patch"]
    assert diff["first_divergence"]["what"] == "output"


async def test_without_a_success_there_is_nothing_to_compare(client, database, chain):
    single = await add_execution(database, chain, "COMPLETED", control='{"only":"ask"}')
    failed = await add_execution(database, chain, "FAILED")
    answer = await client.get(f"{PATH}/{failed}/diff")
    assert (answer.status_code, answer.json()["code"]) == (404, "nothing_to_compare")
    compared = await client.get(f"{PATH}/{failed}/diff/{single}")
    assert compared.status_code == 200, "a single step is no success of the workflow, but it can be compared"


async def test_a_diff_needs_both_runs_to_be_mine(client, other_client, database, chain):
    theirs = await add_execution(database, await create(other_client, CHAIN), "COMPLETED")
    mine = await add_execution(database, chain, "COMPLETED")
    for left, right in ((mine, theirs), (theirs, mine)):
        answer = await client.get(f"{PATH}/{left}/diff/{right}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_the_summary_of_a_failure_tells_where_it_parted(live, owner, client, database, chain, caller):
    good, bad = await two_runs(database, chain, await second_version(client, chain))
    summary = (await outlook(live, caller, bad)).summary
    assert summary is not None
    assert (summary.other_id, summary.definition_changed, summary.input_changed) == (good, True, True)
    assert summary.first_divergence.step_id == "ask"
    assert (await outlook(live, caller, good)).summary is None, "it is no failure"
    first = await add_execution(database, await create(client, CHAIN), "FAILED")
    assert (await outlook(live, caller, first)).summary is None, "there was no success before it"


async def outlook(live: Any, caller: Any, execution_id: str) -> Outlook:
    detail = await live.services.executions.detail(caller, execution_id)
    found: Outlook = await live.services.insight.outlook(caller, detail)
    return found


@pytest.fixture
async def caller(live, owner):
    """The owner of the organisation, as the use cases see them."""
    principal = await live.services.authenticator.authenticate(f"Bearer {owner.token}")
    return Caller(principal, "127.0.0.1", "test", "req_1")


async def test_the_timeline_of_a_run_tells_queue_attempts_and_backoff(client, database, chain):
    start = now_plus(-100)

    def at(seconds: float) -> Any:
        return start + timedelta(seconds=seconds)

    execution_id = await add_execution(
        database, chain, "COMPLETED", created_at=at(0), started_at=at(1), completed_at=at(10)
    )
    await add_step(
        database, chain, execution_id, "fetch", "COMPLETED", started_at=at(1), attempt_started_at=at(4), attempt=2,
        completed_at=at(5),
    )  # fmt: skip
    for number, status, begun, ended in ((1, "FAILED", 1, 2), (2, "COMPLETED", 4, 5)):
        await database.execute(
            "INSERT INTO step_attempts (execution_id, path, attempt, org_id, epoch, worker_id, status, started_at, "
            "completed_at) VALUES ($1, 'fetch', $2, $3, 1, 'worker', $4, $5, $6)",
            execution_id, number, chain["org_id"], status, at(begun), at(ended),
        )  # fmt: skip
    for seq, kind, second, reason in ((2, "execution_paused", 6, "paused"), (3, "execution_resumed", 8, "resumed")):
        await database.execute(
            "INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, progress, data) "
            "VALUES ($1, $2, $3, $4, $5, 0, $6)",
            execution_id, seq, chain["org_id"], kind, at(second), encode({"reason": reason}),
        )  # fmt: skip
    found = (await client.get(f"{PATH}/{execution_id}/timeline")).json()
    assert [(span["step_id"], span["kind"], span["attempt"]) for span in found["spans"]] == [
        (None, "queue", None),
        (None, "paused", None),
        ("fetch", "attempt", 1),
        ("fetch", "backoff", None),
        ("fetch", "attempt", 2),
    ]
    assert found["cut"] is False


async def test_a_long_timeline_is_cut_and_says_so(client, database, chain):
    execution_id = await add_execution(database, chain, "PAUSED", started_at=now_plus(1))
    await add_step(database, chain, execution_id, "fetch", "COMPLETED", attempt_started_at=now_plus(-5))
    await database.execute(
        "INSERT INTO execution_steps (execution_id, path, org_id, epoch, step_number, name, type, status, attempt, "
        "failures, ports, tokens_used, cost) SELECT $1, 'fetch[' || n || ']', $2, 1, 1, 'x', 'set', 'COMPLETED', 1, 0, "
        "'{}', 0, 0 FROM generate_series(0, 1500) n",
        execution_id, chain["org_id"],
    )  # fmt: skip
    found = (await client.get(f"{PATH}/{execution_id}/timeline")).json()
    assert found["cut"] is True
    graph = (await client.get(f"{PATH}/{execution_id}/graph")).json()
    assert [node["id"] for node in graph["nodes"]] == ["fetch", "ask", "send"]


async def test_the_graph_shows_which_way_a_run_took(client, database):
    workflow = await create(client, {
        "name": "Route",
        "steps": [
            {"id": "route", "type": "switch", "with": {"cases": {"hot": "${{ input == 1 }}"}, "default": "cold"}},
            {"id": "call", "type": "set", "needs": ["route.hot"], "with": {"value": 1}},
            {"id": "mail", "type": "set", "needs": ["route.cold"], "with": {"value": 1}},
            {"id": "done", "type": "set", "needs": ["call", "mail"], "with": {"value": 1}},
        ],
    })  # fmt: skip
    execution_id = await add_execution(database, workflow, "RUNNING")
    await add_step(database, workflow, execution_id, "route", "COMPLETED", ports=["hot"], execution_time_ms=3.5)
    await add_step(database, workflow, execution_id, "mail", "SKIPPED", reason="not_taken")
    graph = (await client.get(f"{PATH}/{execution_id}/graph")).json()
    assert {(edge["from"], edge["to"], edge["port"]): edge["taken"] for edge in graph["edges"]} == {
        ("route", "call", "hot"): True,
        ("route", "mail", "cold"): False,
        ("call", "done", None): None,
        ("mail", "done", None): False,
    }
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert (nodes["route"]["status"], nodes["route"]["duration_ms"]) == ("COMPLETED", 3.5)
    assert (nodes["call"]["status"], nodes["call"]["attempts"]) == ("PENDING", 0)


async def test_the_estimate_comes_from_completed_runs_of_the_workflow(live, client, database, chain, caller):
    begun = now_plus(-1_000)
    for _ in range(2):
        earlier = await add_execution(database, chain, "COMPLETED")
        for path, seconds in (("fetch", 1), ("ask", 9)):
            ended = begun + timedelta(seconds=seconds)
            await add_step(database, chain, earlier, path, "COMPLETED", started_at=begun, completed_at=ended)
        await add_step(database, chain, earlier, "send", "SKIPPED", reason="not_taken")
    execution_id = await add_execution(database, chain, "WAITING", wake_at=now_plus(600))
    await add_step(database, chain, execution_id, "fetch", "COMPLETED", completed_at=clock.now())
    found = (await outlook(live, caller, execution_id)).estimate
    assert found.weighted_progress == 10.0
    assert found.eta is not None
    fresh = await create(client, CHAIN)
    assert (await outlook(live, caller, await add_execution(database, fresh, "PAUSED"))).estimate == UNKNOWN
    ended = await outlook(live, caller, await add_execution(database, fresh, "COMPLETED"))
    assert ended.estimate.weighted_progress == 100.0


async def add_failure(database: Any, workflow: dict[str, Any], message: str, **columns: Any) -> tuple[str, str]:
    mark = fingerprint(workflow["id"], "ask", "http_error", message)
    execution_id = await add_execution(
        database, workflow, "FAILED", error=message, error_code="http_error", fingerprint=mark,
        completed_at=clock.now(), **{"created_at": now_plus(-1)} | columns,
    )  # fmt: skip
    await add_step(
        database,
        workflow,
        execution_id,
        "ask",
        "FAILED",
        error=message,
        error_code="http_error",
        completed_at=clock.now(),
    )
    return execution_id, mark


async def test_failures_are_grouped_newest_first(client, other_client, database, chain):
    theirs = await create(other_client, CHAIN)
    await add_failure(database, theirs, "user 1 not found")
    await add_failure(database, chain, "user 17 not found")
    await add_failure(database, chain, "timeout")
    latest, mark = await add_failure(database, chain, "user 18 not found")
    groups = (await client.get("/api/v1/failures")).json()["data"]
    assert [(group["count"], group["sample_message"]) for group in groups] == [(2, "user 18 not found"), (1, "timeout")]
    first = groups[0]
    assert (first["fingerprint"], first["latest_execution_id"], first["step_id"]) == (mark, latest, "ask")
    assert (first["workflow_ids"], first["error_code"]) == ([chain["id"]], "http_error")
    assert first["first_seen"] < first["last_seen"]
    group = (await client.get(f"/api/v1/failures/{mark}")).json()
    assert group["executions"][0]["id"] == latest
    assert len(group["executions"]) == 2
    assert (await other_client.get(f"/api/v1/failures/{mark}")).status_code == 404


async def test_failures_are_paged_and_narrowed(client, database, chain):
    old = now_plus(-86_400)
    await add_failure(database, chain, "old one", created_at=old)
    await add_failure(database, chain, "mixed", created_at=old)
    for message in ("mixed", "b", "c"):
        await add_failure(database, chain, message)
    seen, url = [], "/api/v1/failures?limit=1"
    while url:
        page = await client.get(url)
        seen += [group["sample_message"] for group in page.json()["data"]]
        url = page.links.get("next", {}).get("url")
    assert seen == ["c", "b", "mixed", "old one"]
    recent = await client.get("/api/v1/failures", params={"created_after": now_plus(-3_600).isoformat()})
    assert {group["sample_message"]: group["count"] for group in recent.json()["data"]} == {"mixed": 1, "b": 1, "c": 1}
    none = await client.get("/api/v1/failures", params={"workflow_id": "wf_other"})
    assert none.json() == {"data": [], "next_cursor": None, "has_more": False}


async def test_a_failure_group_is_retried_at_once_with_a_preview(client, viewer_client, database, chain):
    execution_id, mark = await add_failure(database, chain, "user 17 not found")
    await add_failure(database, chain, "other")
    url = f"/api/v1/failures/{mark}/retry"
    assert (await viewer_client.post(url)).status_code == 403
    preview = (await client.post(url, json={"dry_run": True})).json()
    assert (preview["matched"], preview["applied"], preview["execution_ids"]) == (1, 0, [execution_id])
    refused = await client.post(url, json={"expected_count": 2})
    assert (refused.status_code, refused.json()["code"]) == (409, "count_changed")
    assert (await client.post("/api/v1/failures/nothing/retry")).status_code == 404


@pytest.mark.parametrize(
    ("accept", "media", "begins"),
    [
        ("text/plain", "text/plain; charset=utf-8", "FAILED     exec_"),
        ("text/markdown;q=0.9, text/plain;q=0.1", "text/markdown; charset=utf-8", "# FAILED: `Chain`"),
        ("text/vnd.mermaid", "text/vnd.mermaid; charset=utf-8", "flowchart TD"),
        ("*/*", "application/json", "{"),
    ],
)
async def test_the_detail_comes_in_the_form_asked_for(live, client, database, chain, caller, accept, media, begins):
    _, bad = await two_runs(database, chain, chain)
    request = Request({"type": "http", "headers": [(b"accept", accept.encode())]})
    answer = await execution_answer(request, live.services, caller, await live.services.executions.detail(caller, bad))
    assert (answer.media_type, answer.headers["vary"]) == (media, "Accept")
    assert bytes(answer.body).decode().startswith(begins)


async def test_the_json_detail_tells_the_outlook(live, client, database, chain, caller):
    good, bad = await two_runs(database, chain, chain)
    detail = await live.services.executions.detail(caller, bad)
    answer = await execution_answer(Request({"type": "http", "headers": []}), live.services, caller, detail)
    body = json.loads(bytes(answer.body))
    assert (body["id"], body["diff_summary"]["other_id"], body["eta"]) == (bad, good, None)
    assert WithOutlook.model_validate(body).diff_summary is not None
