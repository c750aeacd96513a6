"""Secrets over HTTP: a value goes in and never comes out; who may; what is recorded; two organisations apart."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.auth.permissions import Role
from tests.api.live import Live, Organization
from tests.database import Database

SECRETS = "/api/v1/secrets"
VALUE = "sk_live_51H8xCanaryOfTheApi"
STRIPE = {"name": "stripe", "value": VALUE, "allowed_hosts": ["api.stripe.com"]}
SHOWN = {"name", "version", "allowed_hosts", "last4", "updated_at", "updated_by", "last_used_at"}

IMPOSSIBLE: list[tuple[dict[str, Any], str, str]] = [
    ({"name": ""}, "/name", "invalid_value"),
    ({"name": "1st"}, "/name", "invalid_value"),
    ({"name": "a/b"}, "/name", "invalid_value"),
    ({"name": "a\n"}, "/name", "invalid_character"),
    ({"name": "x" * 65}, "/name", "invalid_value"),
    ({"value": "short"}, "/value", "invalid_value"),
    ({"value": 123456}, "/value", "invalid_value"),
    ({"value": "x" * 16_385}, "/value", "invalid_value"),
    ({"value": None}, "/value", "invalid_value"),
    ({"allowed_hosts": []}, "/allowed_hosts", "invalid_value"),
    ({"allowed_hosts": ["*"]}, "/allowed_hosts/0", "invalid_value"),
    ({"allowed_hosts": ["api.stripe.com", "https://x.org/"]}, "/allowed_hosts/1", "invalid_value"),
    ({"allowed_hosts": ["a.org"] * 21}, "/allowed_hosts", "invalid_value"),
    ({"org_id": "org_other"}, "/org_id", "unknown_field"),
    ({"version": 7}, "/version", "unknown_field"),
]


@pytest.fixture
async def member_client(organization: Organization) -> AsyncIterator[httpx.AsyncClient]:
    async with (await organization.member(Role.MEMBER)).http() as signed_in:
        yield signed_in


async def make(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await client.post(SECRETS, json={**STRIPE, **changes})


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def workflow(**headers: Any) -> dict[str, Any]:
    config = {"url": "https://api.stripe.com:8443/v1", "headers": headers}
    return {"name": "Pay", "steps": [{"id": "pay", "type": "http.request", "with": config}]}


async def test_a_secret_is_made_shown_replaced_and_deleted_without_its_value(
    client: httpx.AsyncClient, database: Database
) -> None:
    made = await make(client)
    assert made.status_code == 201
    assert made.headers["location"] == f"{SECRETS}/stripe"
    assert set(made.json()) == SHOWN
    assert (made.json()["version"], made.json()["last4"]) == (1, VALUE[-4:])
    body = {"value": f"{VALUE}-2", "allowed_hosts": ["*.stripe.com", "api.stripe.com:8443", "*.stripe.com"]}
    replaced = await client.put(f"{SECRETS}/stripe", json=body)
    assert (replaced.status_code, replaced.json()["version"]) == (200, 2)
    assert replaced.json()["allowed_hosts"] == ["*.stripe.com", "api.stripe.com:8443"]
    found = await client.get(f"{SECRETS}/stripe")
    assert found.json() == replaced.json()
    assert (await client.get(SECRETS)).json()["data"] == [replaced.json()]
    gone = await client.delete(f"{SECRETS}/stripe")
    assert (gone.status_code, gone.content) == (204, b"")
    for answer in (await client.get(f"{SECRETS}/stripe"), await client.delete(f"{SECRETS}/stripe")):
        refused(answer, 404, "not_found")
    refused(await client.put(f"{SECRETS}/stripe", json=body), 404, "not_found")
    assert all(VALUE not in answer.text for answer in (made, replaced, found))
    assert await database.fetchval("SELECT count(*) FROM secrets WHERE updated_by = $1", made.json()["updated_by"]) == 0


async def test_only_the_version_before_is_kept_beside_the_newest(client: httpx.AsyncClient, database: Database) -> None:
    user = (await make(client)).json()["updated_by"]
    for number in range(4):
        body = {"value": f"{VALUE}-{number}", "allowed_hosts": ["a.org"]}
        assert (await client.put(f"{SECRETS}/stripe", json=body)).json()["version"] == number + 2
    rows = await database.fetch("SELECT version, ciphertext::text FROM secrets WHERE updated_by = $1 ORDER BY 1", user)
    assert [row["version"] for row in rows] == [4, 5]
    assert VALUE.encode().hex() not in str(rows)


async def test_a_name_is_taken_once_and_is_another_one_in_another_organisation(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient
) -> None:
    assert (await make(client)).status_code == 201
    refused(await make(client), 409, "already_exists")
    assert (await make(client, name="Stripe")).status_code == 201
    assert (await make(other_client, value="another-value", allowed_hosts=["evil.example"])).status_code == 201
    assert (await client.get(f"{SECRETS}/stripe")).json()["allowed_hosts"] == ["api.stripe.com"]
    assert (await other_client.delete(f"{SECRETS}/stripe")).status_code == 204
    assert (await client.get(f"{SECRETS}/stripe")).json()["version"] == 1
    refused(await other_client.get(f"{SECRETS}/Stripe"), 404, "not_found")


@pytest.mark.parametrize("name", ["%F0%9F%94%91", "a" * 3_000, "..%2Fapi-keys", "%27%20OR%201=1", "stripe%20"])
async def test_a_name_of_any_shape_is_just_not_there(name: str, client: httpx.AsyncClient) -> None:
    await make(client)
    body = {"value": VALUE, "allowed_hosts": ["a.org"]}
    for method, sent in (("GET", None), ("PUT", body), ("DELETE", None)):
        refused(await client.request(method, f"{SECRETS}/{name}", json=sent), 404, "not_found")


async def test_secrets_are_listed_by_name_page_by_page(client: httpx.AsyncClient) -> None:
    for name in ("c", "a", "b"):
        await make(client, name=name)
    first = (await client.get(SECRETS, params={"limit": 2})).json()
    assert [each["name"] for each in first["data"]] == ["a", "b"]
    second = (await client.get(SECRETS, params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert ([each["name"] for each in second["data"]], second["has_more"]) == (["c"], False)


@pytest.mark.parametrize(("changes", "pointer", "code"), IMPOSSIBLE)
async def test_what_cannot_be_a_secret_is_refused_without_an_echo(
    changes: dict[str, Any], pointer: str, code: str, client: httpx.AsyncClient
) -> None:
    answer = await make(client, **changes)
    refused(answer, 422, "validation_error")
    assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == [(pointer, code)]
    assert VALUE not in answer.text
    assert "xxxxx" not in answer.text


@pytest.mark.parametrize(
    ("value", "last4"), [("fifteen-chars-x", None), ("sixteen-chars-xy", "s-xy"), ("x" * 20 + "\n", None)]
)
async def test_only_the_end_of_a_long_value_is_shown(value: str, last4: str | None, client: httpx.AsyncClient) -> None:
    assert (await make(client, value=value)).json()["last4"] == last4


async def test_who_writes_workflows_sees_what_there_is_and_who_may_writes(
    client: httpx.AsyncClient, member_client: httpx.AsyncClient, viewer_client: httpx.AsyncClient
) -> None:
    await make(client)
    assert (await member_client.get(f"{SECRETS}/stripe")).status_code == 200
    refused(await make(member_client, name="mine"), 403, "insufficient_scope")
    refused(await member_client.put(f"{SECRETS}/stripe", json={**STRIPE}), 403, "insufficient_scope")
    refused(await member_client.delete(f"{SECRETS}/stripe"), 403, "insufficient_scope")
    refused(await viewer_client.get(SECRETS), 403, "insufficient_scope")


async def test_every_change_is_in_the_audit_log_without_the_value(client: httpx.AsyncClient) -> None:
    await make(client)
    await client.put(f"{SECRETS}/stripe", json={"value": f"{VALUE}-2", "allowed_hosts": ["a.org"]})
    await client.delete(f"{SECRETS}/stripe")
    await make(client, value="tiny")
    log = await client.get("/api/v1/audit-logs", params={"limit": 200})
    rows = [row for row in log.json()["data"] if row["resource_type"] == "secret"]
    assert [(row["action"], row["resource_id"], row["details"]["version"]) for row in reversed(rows)] == [
        ("secret.created", "stripe", 1), ("secret.replaced", "stripe", 2), ("secret.deleted", "stripe", 2),
    ]  # fmt: skip
    assert VALUE not in log.text


async def test_the_api_role_cannot_read_what_is_sealed(live: Live, client: httpx.AsyncClient) -> None:
    """Not even if it is made to run any statement at all."""
    await make(client)
    async with live.database.connected("stepstream_api") as connection:
        for column in ("ciphertext", "wrapped_key", "key_id", "*"):
            with pytest.raises(Exception, match="permission denied"):
                await connection.fetch(f"SELECT {column} FROM secrets")


REFERENCE = {"$secret": "stripe", "format": "Bearer {}"}


async def test_a_workflow_tells_which_of_its_secrets_are_missing_and_does_not_start(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient
) -> None:
    await make(other_client)
    definition = workflow(Authorization=REFERENCE)
    checked = (await client.post("/api/v1/workflows/validate", json=definition)).json()
    where = "/steps/0/with/headers/Authorization"
    assert (checked["valid"], [(error["code"], error["pointer"]) for error in checked["problems"]]) == (
        True, [("unknown_reference", where)],
    )  # fmt: skip
    saved = await client.post("/api/v1/workflows", json=definition)
    assert saved.status_code == 201, "it may be made later"
    start = {"workflow_id": saved.json()["id"]}
    refusal = await client.post("/api/v1/executions", json=start)
    refused(refusal, 422, "workflow_invalid")
    assert [error["code"] for error in refusal.json()["errors"]] == ["unknown_reference"]
    await make(client, allowed_hosts=["api.example.com"])
    refusal = await client.post("/api/v1/executions", json=start)
    assert [error["code"] for error in refusal.json()["errors"]] == ["secret_host_not_allowed"]
    await client.put(f"{SECRETS}/stripe", json={"value": VALUE, "allowed_hosts": ["*.stripe.com"]})
    assert (await client.post("/api/v1/workflows/validate", json=definition)).json()["problems"] == []


@pytest.mark.parametrize(
    ("step", "code", "pointer"),
    [
        ({"type": "log", "with": {"message": REFERENCE}}, "secret_not_allowed", "/message"),
        ({"type": "set", "with": {"a": [REFERENCE]}}, "secret_not_allowed", "/a/0"),
        ({"type": "agent", "with": {"model": "stand-in", "prompt": [REFERENCE]}}, "secret_not_allowed", "/prompt/0"),
        ({"type": "function", "with": {"function": "echo", "args": {"value": REFERENCE}}}, "secret_not_allowed",
         "/args/value"),
        ({"type": "http.request", "with": {"url": "https://a.org:8443", "headers": {"Authorization": VALUE}}},
         "invalid_header_value", "/headers/Authorization"),
        ({"type": "http.request", "with": {"url": "https://a.org:8443", "json": {"$secret": "${{ input }}"}}},
         "invalid_secret_reference", "/json"),
        ({"type": "agent", "with": {"model": "stand-in", "prompt": "", "api_key": VALUE}}, "invalid_config",
         "/api_key"),
    ],
)  # fmt: skip
async def test_a_secret_stands_only_where_its_value_is_sent_and_not_kept(
    step: dict[str, Any], code: str, pointer: str, client: httpx.AsyncClient
) -> None:
    await make(client)
    answer = await client.post("/api/v1/workflows", json={"name": "W", "steps": [{"id": "a", **step}]})
    refused(answer, 422, "workflow_invalid")
    assert [(error["code"], error["pointer"]) for error in answer.json()["errors"]] == [
        (code, f"/steps/0/with{pointer}")
    ]
    assert VALUE not in answer.text
    assert base64.b64encode(VALUE.encode()).decode() not in answer.text
