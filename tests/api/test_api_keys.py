"""API keys over HTTP: shown once, never more than their creator, managed by whom they concern."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import httpx
import pytest

from app.auth.permissions import ROLE_PERMISSIONS, Role
from tests.api.live import Live, Organization
from tests.database import Database

KEYS, ME, AUDIT = "/api/v1/api-keys", "/api/v1/auth/me", "/api/v1/audit-logs"
SHOWN = {"id", "name", "user_id", "scopes", "expires_at", "revoked_at", "last_used_at", "created_at"}

IMPOSSIBLE: list[tuple[dict[str, object], str, str]] = [
    ({}, "/name", "missing_field"),
    ({"name": ""}, "/name", "invalid_value"),
    ({"name": " "}, "/name", "invalid_value"),
    ({"name": "x" * 101}, "/name", "invalid_value"),
    ({"name": "a\u0000b"}, "/name", "invalid_character"),
    ({"name": "CI", "scopes": []}, "/scopes", "invalid_value"),
    ({"name": "CI", "scopes": ["root"]}, "/scopes/0", "invalid_value"),
    ({"name": "CI", "scopes": "executions.read"}, "/scopes", "invalid_value"),
    ({"name": "CI", "ttl": 0}, "/ttl", "invalid_value"),
    ({"name": "CI", "ttl": "-1s"}, "/ttl", "invalid_value"),
    ({"name": "CI", "ttl": "100000d"}, "/ttl", "invalid_value"),
    ({"name": "CI", "ttl": "1h", "expires_at": "2099-01-01T00:00:00Z"}, "/ttl", "invalid_value"),
    ({"name": "CI", "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at", "invalid_value"),
    ({"name": "CI", "expires_at": "2099-01-01T00:00:00"}, "/expires_at", "invalid_value"),
    ({"name": "CI", "org_id": "org_other"}, "/org_id", "unknown_field"),
    ({"name": "CI", "user_id": "user_other"}, "/user_id", "unknown_field"),
    ({"name": "CI", "key": "sk_mine"}, "/key", "unknown_field"),
]


@pytest.fixture
async def member_client(organization: Organization) -> AsyncIterator[httpx.AsyncClient]:
    async with (await organization.member(Role.MEMBER)).http() as signed_in:
        yield signed_in


async def created(client: httpx.AsyncClient, **body: object) -> dict[str, Any]:
    answer = await client.post(KEYS, json={"name": "CI", **body})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return dict(answer.json())


async def listed(client: httpx.AsyncClient, **params: str | int) -> list[str]:
    return [key["id"] for key in (await client.get(KEYS, params=params)).json()["data"]]


async def test_a_key_works_and_is_shown_once(client: httpx.AsyncClient, live: Live, database: Database) -> None:
    answer = await client.post(KEYS, json={"name": "  CI "})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    key = answer.json()
    assert set(key) == SHOWN | {"key"}
    assert answer.headers["location"] == f"{KEYS}/{key['id']}"
    assert (key["name"], key["expires_at"], key["revoked_at"], key["last_used_at"]) == ("CI", None, None, None)
    assert key["key"].startswith("sk_")
    async with live.http(key["key"]) as with_key:
        me = (await with_key.get(ME)).json()
    assert (me["user"]["id"], me["credential"]["id"]) == (key["user_id"], key["id"])
    shown = await client.get(answer.headers["location"])
    assert set(shown.json()) == SHOWN
    assert shown.json()["last_used_at"] is not None
    secret = key["key"].rpartition("_")[2]
    assert secret not in shown.text + (await client.get(KEYS)).text + (await client.get(AUDIT)).text
    stored = await database.fetchval("SELECT to_jsonb(api_keys)::text FROM api_keys WHERE id = $1", key["id"])
    assert key["id"] in stored
    assert secret not in stored


async def test_without_scopes_a_key_may_what_its_creator_may(member_client: httpx.AsyncClient) -> None:
    key = await created(member_client)
    assert key["scopes"] == sorted(ROLE_PERMISSIONS[Role.MEMBER])


async def test_scopes_narrow_a_key(client: httpx.AsyncClient, live: Live) -> None:
    key = await created(client, scopes=["executions.read", "audit.read", "executions.read"])
    assert key["scopes"] == ["audit.read", "executions.read"]
    async with live.http(key["key"]) as with_key:
        assert (await with_key.get(AUDIT)).status_code == 200
        refused(await with_key.get(KEYS), 403, "insufficient_scope")


async def test_a_key_never_has_more_scopes_than_its_creator(
    client: httpx.AsyncClient, member_client: httpx.AsyncClient, live: Live
) -> None:
    problem = refused(
        await member_client.post(KEYS, json={"name": "CI", "scopes": ["executions.read", "audit.read"]}),
        403,
        "insufficient_scope",
    )
    assert "audit.read" in problem["detail"]
    denials = (await client.get(AUDIT, params={"action": "access.denied"})).json()["data"]
    assert [row["resource_id"] for row in denials] == ["audit.read"]
    # A narrowed owner is no more than its scopes either, whatever the role.
    narrow = await created(client, scopes=["api_keys.manage", "workflows.read"])
    async with live.http(narrow["key"]) as with_key:
        refused(await with_key.post(KEYS, json={"name": "CI", "scopes": ["audit.read"]}), 403, "insufficient_scope")
        assert (await created(with_key))["scopes"] == ["api_keys.manage", "workflows.read"]


async def test_a_key_loses_what_its_creator_loses(
    member_client: httpx.AsyncClient, live: Live, database: Database
) -> None:
    key = await created(member_client)
    await database.execute("UPDATE memberships SET role = 'viewer' WHERE user_id = $1", key["user_id"])
    async with live.http(key["key"]) as with_key:
        me = (await with_key.get(ME)).json()
    assert (me["role"], me["permissions"]) == ("viewer", sorted(ROLE_PERMISSIONS[Role.VIEWER]))


async def test_a_key_ends_at_a_time_or_after_a_while(client: httpx.AsyncClient) -> None:
    key = await created(client, expires_at="2099-01-02T03:04:05+01:00")
    assert key["expires_at"] == "2099-01-02T02:04:05Z"
    for ttl, seconds in (("30d", 30 * 86400), ("PT1H", 3600), (90, 90)):
        key = await created(client, ttl=ttl)
        me = (await client.get(f"{KEYS}/{key['id']}")).json()
        assert me["expires_at"] == key["expires_at"]
        assert abs(_seconds(key["expires_at"]) - _seconds(key["created_at"]) - seconds) < 60


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("column", ["expires_at", "revoked_at"])
async def test_an_ended_key_is_refused(client: httpx.AsyncClient, live: Live, database: Database, column: str) -> None:
    key = await created(client)
    await database.execute(f"UPDATE api_keys SET {column} = now() - interval '1 s' WHERE id = $1", key["id"])
    async with live.http(key["key"]) as with_key:
        refused(await with_key.get(ME), 401, "invalid_token")


async def test_revoking_is_final_repeatable_and_audited_once(client: httpx.AsyncClient, live: Live) -> None:
    key, other = await created(client), await created(client)
    for _ in range(2):
        answer = await client.delete(f"{KEYS}/{key['id']}")
        assert (answer.status_code, answer.content) == (204, b"")
    shown = (await client.get(f"{KEYS}/{key['id']}")).json()
    assert shown["revoked_at"] is not None
    assert await listed(client) == [other["id"], key["id"]]
    async with live.http(key["key"]) as with_key, live.http(other["key"]) as with_other:
        refused(await with_key.get(ME), 401, "invalid_token")
        assert (await with_other.get(ME)).status_code == 200
    rows = (await client.get(AUDIT, params={"resource_type": "api_key", "resource_id": key["id"]})).json()["data"]
    assert [row["action"] for row in rows] == ["api_key.revoked", "api_key.created"]
    assert rows[1]["details"] == {"name": "CI", "scopes": key["scopes"], "expires_at": None}


async def test_members_manage_their_own_keys_and_owners_all(
    client: httpx.AsyncClient, member_client: httpx.AsyncClient, organization: Organization
) -> None:
    of_owner, of_member = await created(client), await created(member_client)
    assert await listed(member_client) == [of_member["id"]]
    assert await listed(client) == [of_member["id"], of_owner["id"]]
    for method in (member_client.get, member_client.delete):
        refused(await method(f"{KEYS}/{of_owner['id']}"), 404, "not_found")
    async with (await organization.member(Role.ADMIN)).http() as admin:
        assert await listed(admin) == [of_member["id"], of_owner["id"]]
        assert (await admin.delete(f"{KEYS}/{of_member['id']}")).status_code == 204
    assert (await member_client.get(f"{KEYS}/{of_member['id']}")).json()["revoked_at"] is not None
    assert (await client.get(f"{KEYS}/{of_owner['id']}")).json()["revoked_at"] is None


async def test_who_may_not_manage_keys_does_not(viewer_client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    for client, status, code in (
        (viewer_client, 403, "insufficient_scope"),
        (anonymous, 401, "missing_credentials"),
    ):
        refused(await client.get(KEYS), status, code)
        refused(await client.post(KEYS, json={"name": "CI"}), status, code)
        refused(await client.delete(f"{KEYS}/key_any"), status, code)


async def test_a_key_of_another_organisation_is_as_unknown_as_one_that_never_was(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient
) -> None:
    key = await created(client)
    assert await listed(other_client) == []
    for method in (other_client.get, other_client.delete):
        answers = [
            refused(await method(f"{KEYS}/{key_id}"), 404, "not_found") | {"request_id": "", "instance": ""}
            for key_id in (key["id"], "key_01k2m3n4p5q6r7s8t9v0w1x2y3", "x" * 300)
        ]
        assert answers[0] == answers[1] == answers[2]
    assert (await client.get(f"{KEYS}/{key['id']}")).json()["revoked_at"] is None


async def test_pages_have_every_key_once_the_newest_first(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient
) -> None:
    made = [(await created(client, name=f"Key {number}"))["id"] for number in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = (await client.get(KEYS, params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [key["id"] for key in page["data"]]
        assert page["has_more"] is (page["next_cursor"] is not None)
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
        assert len(page["data"]) == 2
    assert seen == made[::-1]
    refused(await other_client.get(KEYS, params={"cursor": cursor or ""}), 422, "invalid_cursor")
    for limit in (0, 201, "many"):
        refused(await client.get(KEYS, params={"limit": limit}), 422, "validation_error")


async def test_what_cannot_be_a_key_is_refused_and_leaves_nothing(client: httpx.AsyncClient) -> None:
    for body, pointer, code in IMPOSSIBLE:
        problem = refused(await client.post(KEYS, json=body), 422, "validation_error")
        assert (pointer, code) in [(error["pointer"], error["code"]) for error in problem["errors"]], body
    assert await listed(client) == []
