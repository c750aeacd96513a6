"""Every route, whatever is added later: permission declared and enforced, nothing of another organisation reachable."""

import re
from inspect import iscoroutinefunction
from typing import Any

import httpx
import jsonschema_rs
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import OAuth2PasswordRequestForm

from app.api.openapi import Operation, calls_of, operations
from app.api.v1.examples import EXAMPLES
from app.auth.permissions import ROLE_PERMISSIONS, Role
from app.db.tables import metadata
from app.domain.errors import ConnectionLost
from tests.api.control_calls import add_approval
from tests.api.live import Live
from tests.api.test_executions import HELLO, save
from tests.database import Database

SAMPLE_BODIES: dict[str, Any] = {
    "startExecution": {"workflow_id": "{workflow_id}", "input": None},
    "startExecutions": {"executions": [{"workflow_id": "{workflow_id}"}]},
    "createWorkflow": HELLO,
    "replaceWorkflow": HELLO,
    "validateWorkflow": HELLO,
    "createApiKey": {"name": "key"},
    "createStreamTicket": {"execution_id": "{execution_id}"},
    "signalExecution": {"name": "go"},
    "setExecutionBreakpoints": {"steps": []},
    "setExecutionStepOutput": {"output": 1},
    "setExecutionBudget": {"max_cost": 1},
    "controlExecutions": {"action": "cancel", "filter": {"ids": ["{execution_id}"]}},
    "setOrganizationBudget": {"max_cost": 1},
    "setWorkflowBudget": {"max_cost": 1},
    "decideApproval": {"decision": "reject"},
    "createSecret": {"name": "sample", "value": "sample-value", "allowed_hosts": ["example.com"]},
    "replaceSecret": {"value": "sample-value", "allowed_hosts": ["example.com"]},
}


def api_routes(live: Live) -> list[Operation]:
    found = [operation for operation in operations(live.app) if operation.path.startswith("/api/")]
    assert len(found) > 25, "the walk sees the routes"
    return found


def parameters(route: Operation) -> set[str]:
    return set(re.findall(r"{(\w+)}", route.path))


async def call(
    client: httpx.AsyncClient, route: Operation, ids: dict[str, str], query: dict[str, str] | None = None
) -> httpx.Response:
    """A well-formed request to a route, with these ids wherever it takes one."""
    filled = fill(SAMPLE_BODIES.get(route.operation_id or "", {}), ids)
    headers = {"If-Match": "*"} if route.method in {"PUT", "DELETE"} else {}
    sends_body = route.method in {"POST", "PUT", "PATCH"}
    path = route.path.format(**ids)
    body = filled if sends_body else None
    return await client.request(route.method, path, json=body, headers=headers, params=fill(query or {}, ids))


def fill(body: Any, ids: dict[str, str]) -> Any:
    if isinstance(body, dict):
        return {key: fill(value, ids) for key, value in body.items()}
    if isinstance(body, list):
        return [fill(value, ids) for value in body]
    return body.format(**ids) if isinstance(body, str) else body


@pytest.fixture
async def belongings(client, live) -> dict[str, str]:
    return await make_belongings(live, client)


async def make_belongings(live: Live, client: httpx.AsyncClient) -> dict[str, str]:
    """One of everything an organisation can own, by the name its id has in paths and bodies."""
    workflow_id = await save(client)
    started = await client.post("/api/v1/executions", json={"workflow_id": workflow_id}, headers={"Prefer": "wait=20"})
    key = await client.post("/api/v1/api-keys", json={"name": "mine"})
    approval_id = await add_approval(live.database, started.json())
    secret = {"name": "stripe_live", "value": "sk_live_1234", "allowed_hosts": ["api.stripe.com"]}
    assert (await client.post("/api/v1/secrets", json=secret)).status_code == 201
    failing = await save(client, {"name": "Fail", "steps": [{"id": "a", "type": "fail", "with": {"message": "x"}}]})
    body = {"workflow_id": failing}
    failed = await client.post("/api/v1/executions", json=body, headers={"Prefer": "wait=20"})
    groups = (await client.get("/api/v1/failures", params={"workflow_id": failing})).json()["data"]
    return {
        "workflow_id": workflow_id,
        "execution_id": started.json()["id"],
        "step_id": "greet",
        "key_id": key.json()["id"],
        "approval_id": approval_id,
        "secret_name": "stripe_live",
        "other": failed.json()["id"],
        "fingerprint": groups[0]["fingerprint"],
        "number": "1",
        "step_type": "log",
    }


async def test_every_route_declares_a_permission_or_says_why_it_is_public(live):
    for route in api_routes(live):
        assert route.protected == (route.public is None), route.path


async def test_no_request_goes_through_a_thread_on_its_way_to_its_route(live):
    """FastAPI sends what is no coroutine through one. Only signing in may: it hashes a password in a thread anyway."""
    routes = [each.original_route for each in iter_route_contexts(live.app.routes)]
    asked = [call for route in routes if isinstance(route, APIRoute) for call in calls_of(route.dependant)]
    assert len(asked) > 50, "the walk sees the dependencies"
    threaded = {call for call in asked if not iscoroutinefunction(call) and not iscoroutinefunction(call.__call__)}
    assert threaded <= {OAuth2PasswordRequestForm}


async def test_every_protected_route_refuses_who_is_not_signed_in(live, anonymous, belongings):
    for route in api_routes(live):
        if route.protected:
            answer = await call(anonymous, route, belongings)
            assert (answer.status_code, answer.json()["code"]) == (401, "missing_credentials"), route.path
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_every_route_refuses_a_role_without_its_permission_and_audits_it(live, viewer_client, client, belongings):
    denied = 0
    for route in api_routes(live):
        if route.permission is not None and route.permission not in ROLE_PERMISSIONS[Role.VIEWER]:
            answer = await call(viewer_client, route, belongings)
            assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope"), route.path
            denied += 1
    assert denied > 5
    log = await client.get("/api/v1/audit-logs", params={"action": "access.denied", "limit": 200})
    assert len(log.json()["data"]) == denied


OWNED = {"workflow_id", "execution_id", "other", "key_id", "approval_id", "secret_name", "fingerprint"}
"""Parameters of paths that name things of an organisation."""
IN_THE_BODY = {"startExecution", "createStreamTicket"}
NARROWED: dict[str, list[dict[str, str]]] = {
    "listApprovals": [{"execution_id": "{execution_id}"}],
    "listAuditLogs": [{"resource_id": "{workflow_id}"}, {"resource_id": "{execution_id}"}],
    "listFailures": [{"workflow_id": "{workflow_id}"}],
    "listExecutions": [
        {"workflow_id": "{workflow_id}"}, {"ids": "{execution_id}"}, {"fingerprint": "{fingerprint}"},
        {"root_id": "{execution_id}"}, {"parent_id": "{execution_id}"}, {"retry_of": "{execution_id}"},
    ],
    "getExecutionMetrics": [
        {"workflow_id": "{workflow_id}"}, {"ids": "{execution_id}"}, {"fingerprint": "{fingerprint}"},
        {"root_id": "{execution_id}"},
    ],
    "controlExecutions": [{}],
    "startExecutions": [{}],
}  # fmt: skip
"""Routes that ids narrow to what there is, which is nothing: by what is sent."""
NAMES_NOTHING = {
    "listApiKeys", "createApiKey", "verifyAuditLog", "signOut", "whoAmI", "refreshSession", "signIn", "listBudgets",
    "removeOrganizationBudget", "setOrganizationBudget", "listSecrets", "createSecret", "listStepTypes", "getStepType",
    "listWorkflows", "createWorkflow", "validateWorkflow",
}  # fmt: skip


async def test_every_route_says_which_ids_it_takes(live):
    """A new route belongs to one of these sets; then the tests below try it with another organisation's ids."""
    for route in api_routes(live):
        named = route.operation_id in {*IN_THE_BODY, *NARROWED, *NAMES_NOTHING}
        assert bool(parameters(route) & OWNED) != named, f"{route.operation_id} is in no set, or in two"


async def test_no_route_shows_or_takes_another_organisations_things(live, other_client, client, belongings, database):
    """Theirs answers exactly as one that does not exist; nothing of it appears anywhere, and nothing is done to it."""
    nothing = belongings | {name: f"{belongings[name][:4]}_nothing" for name in OWNED}
    before = await rows_of_organization(database, client)
    for route in api_routes(live):
        for query in NARROWED.get(route.operation_id or "", [{}]):
            theirs = await call(other_client, route, belongings, query)
            random = await call(other_client, route, nothing, query)
            if parameters(route) & OWNED or route.operation_id in IN_THE_BODY:
                assert theirs.status_code == 404, f"{route.method} {route.path}: {theirs.status_code} {theirs.text}"
            if route.operation_id not in NAMES_NOTHING:
                assert comparable(theirs, belongings) == comparable(random, nothing), f"{route.path} {query}"
            told = theirs.text.replace(theirs.request.url.path, "")
            shown = [name for name in OWNED if belongings[name] in told]
            assert not shown, f"{route.path} shows {shown}"
    assert await rows_of_organization(database, client) == before


async def test_no_route_puts_their_things_beside_ones_own(live, other_client, client, belongings):
    """Where a path names two things, one of them may be one's own."""
    own = await make_belongings(live, other_client)
    routes = [route for route in api_routes(live) if len(parameters(route) & OWNED) > 1]
    assert routes
    for route in routes:
        for name in parameters(route) & OWNED:
            mixed, random = own | {name: belongings[name]}, own | {name: "exec_nothing"}
            theirs, nothing = await call(other_client, route, mixed), await call(other_client, route, random)
            assert theirs.status_code == 404, f"{route.path} {name}"
            assert comparable(theirs, mixed) == comparable(nothing, random), f"{route.path} {name}"


async def test_an_idempotency_key_is_known_in_its_organisation_only(client, other_client):
    started = set()
    for each in (client, other_client):
        body = {"workflow_id": await save(each)}
        answer = await each.post("/api/v1/executions", json=body, headers={"Idempotency-Key": "the same"})
        assert answer.status_code == 201
        started.add(answer.json()["id"])
    assert len(started) == 2


async def rows_of_organization(database: Database, client: httpx.AsyncClient) -> dict[str, str]:
    """A checksum of each table's rows of the client's organisation, but for the log of who was denied."""
    org_id = (await client.get("/api/v1/auth/me")).json()["organization"]["id"]
    found = {}
    for name, table in metadata.tables.items():
        if "org_id" in table.c and name not in {"audit_logs", "audit_seals"}:
            rows = f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {name} t WHERE org_id = $1"
            found[name] = await database.fetchval(rows, org_id)
    return found


def comparable(answer: httpx.Response, ids: dict[str, str]) -> tuple[int, list[tuple[str, str]], str]:
    """All of an answer but what differs between any two: the moment, the request's id, and the path asked for."""
    text = answer.text.replace(answer.headers["x-request-id"], "").replace(answer.request.url.path, "")
    for name in sorted(OWNED):
        text = text.replace(ids[name], name)
    varying = {"x-request-id", "date", "content-length", "ratelimit", "ratelimit-policy"}
    return answer.status_code, sorted(item for item in answer.headers.items() if item[0] not in varying), text


async def test_the_description_covers_every_route(live, anonymous):
    document = (await anonymous.get("/openapi.json")).json()
    for route in api_routes(live):
        operation = document["paths"][route.path][route.method.lower()]
        assert operation["operationId"]
        assert operation["summary"]
        assert operation.get("description"), route.path
        assert ("security" in operation) == route.protected
        assert all("HTTPValidationError" not in str(found) for found in operation["responses"].values())
    operations = [found["operationId"] for path in document["paths"].values() for found in path.values()]
    assert len(operations) == len(set(operations)), "clients are generated by operationId"
    assert "StreamEvent" in document["components"]["schemas"]


async def test_every_example_answer_fits_its_schema(anonymous):
    document = (await anonymous.get("/openapi.json")).json()
    checked = 0
    for path in document["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                for media, described in answer.get("content", {}).items():
                    if status.startswith("2") and media == "application/json":
                        whole = described["schema"] | {"components": document["components"]}
                        if "example" in described:
                            errors = list(jsonschema_rs.validator_for(whole).iter_errors(described["example"]))
                            assert not errors, f"{operation['operationId']}: {errors[0]}"
                            checked += 1
    assert checked >= len(EXAMPLES)


async def test_the_docs_need_no_outside_network(anonymous):
    for path in ("/docs", "/redoc", "/problems", "/problems/workflow_invalid"):
        page = await anonymous.get(path)
        assert page.status_code == 200
        for link in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert link.startswith("/"), f"{path} loads {link}"
            assert (await anonymous.get(link)).status_code == 200


async def test_unknown_paths_and_methods_are_problems(anonymous, client):
    for request, status, code in [
        (anonymous.get("/api/v1/nothing"), 404, "not_found"),
        (client.patch("/api/v1/executions"), 405, "method_not_allowed"),
        (anonymous.get("/problems/nothing"), 404, "not_found"),
    ]:
        answer = await request
        assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_bug_of_ours_is_a_problem_with_the_request_id_and_no_detail(live, client, monkeypatch):
    async def broken(*_: object) -> None:
        raise KeyError("internal detail")

    monkeypatch.setattr(live.services.executions.__class__, "detail", broken)
    answer = await client.get("/api/v1/executions/exec_1", headers={"X-Request-ID": "mine-1"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine-1"
    assert "internal detail" not in answer.text


@pytest.mark.parametrize(("method", "answers"), [("GET", [404]), ("POST", [503, 404])])
async def test_a_connection_that_dies_under_a_reader_is_nobodys_concern(live, client, monkeypatch, method, answers):
    """What changes something is not made again: nobody knows whether it was done."""
    use, name = (live.services.executions, "detail") if method == "GET" else (live.services.control, "ask")
    whole, lost = getattr(use.__class__, name), iter([True])

    async def breaking(*arguments: Any) -> Any:
        if next(lost, False):
            raise ConnectionLost("The database does not answer. Try again.")
        return await whole(*arguments)

    monkeypatch.setattr(use.__class__, name, breaking)
    path = "/api/v1/executions/exec_1" + ("/cancel" if method == "POST" else "")
    assert [(await client.request(method, path)).status_code for _ in answers] == answers


ALL_OK = {"storage": "ok", "database": "ok", "lease": "ok"}


async def test_health_and_metrics(anonymous, live):
    assert (await anonymous.get("/health/live")).json()["status"] == "ok"
    for path in ("/health", "/health/ready"):
        assert (await anonymous.get(path)).json() == {"status": "ok", "checks": ALL_OK}
    metrics = (await anonymous.get("/metrics")).text
    for name in ("stepstream_executions_started_total", "stepstream_queue_depth", "stepstream_flush_seconds_bucket"):
        assert name in metrics
