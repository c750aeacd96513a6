"""Sessions over HTTP: who gets in, what a session may do, how it ends, and what the audit log keeps of it."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from app import clock
from app.auth.passwords import Passwords
from tests.api.live import Live, live_server
from tests.database import Database

TOKEN, REFRESH, LOGOUT, ME = (f"/api/v1/auth/{name}" for name in ("token", "refresh", "logout", "me"))
TICKETS, AUDIT = "/api/v1/stream-tickets", "/api/v1/audit-logs"
PASSWORD = "correct horse battery staple"
CHEAP = Passwords(memory_kib=64, time_cost=1)
WRONG = "E-mail, password or organisation is wrong."
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass
class Person:
    """Somebody with a password, member of the client's organisation."""

    id: str
    email: str
    org_id: str

    @property
    def form(self) -> dict[str, str]:
        return {"username": self.email, "password": PASSWORD}


@pytest.fixture
async def ann(client: httpx.AsyncClient, database: Database) -> Person:
    org_id = (await client.get(ME)).json()["organization"]["id"]
    user_id = clock.new_id("user")
    person = Person(user_id, f"{user_id}@example.com", org_id)
    await database.execute(
        "INSERT INTO users (id, email, name, password_hash) VALUES ($1, $2, 'Ann', $3)",
        person.id,
        person.email,
        await CHEAP.hash(PASSWORD),
    )
    await join(database, person, org_id, "member")
    return person


async def join(database: Database, person: Person, org_id: str, role: str) -> None:
    await database.execute(
        "INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, $3)", org_id, person.id, role
    )


async def join_another(database: Database, person: Person) -> str:
    second = clock.new_id("org")
    await database.execute("INSERT INTO organizations (id, name) VALUES ($1, 'Second')", second)
    await join(database, person, second, "owner")
    return second


async def signed_in(anonymous: httpx.AsyncClient, person: Person, **more: str) -> dict[str, Any]:
    answer = await anonymous.post(TOKEN, data=person.form | more)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    return dict(answer.json())


async def audited(client: httpx.AsyncClient, action: str, person: Person) -> list[dict[str, Any]]:
    answer = await client.get(AUDIT, params={"action": action, "user_id": person.id})
    return list(answer.json()["data"])


async def audited_soon(client: httpx.AsyncClient, action: str, person: Person) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        while not (rows := await audited(client, action, person)):
            pass
    return rows


async def test_a_password_gives_a_session(anonymous: httpx.AsyncClient, ann: Person) -> None:
    answer = await anonymous.post(TOKEN, data=ann.form | {"grant_type": "password"})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    tokens = answer.json()
    assert set(tokens) == {
        "access_token", "token_type", "expires_in", "refresh_token", "scope", "org_id", "user_id",
    }  # fmt: skip
    assert (tokens["token_type"], tokens["org_id"], tokens["user_id"]) == ("bearer", ann.org_id, ann.id)
    assert 0 < tokens["expires_in"] <= 600
    me = (await anonymous.get(ME, headers=bearer(tokens["access_token"]))).json()
    assert me["user"] == {"id": ann.id, "email": ann.email, "name": "Ann"}
    assert me["organization"]["id"] == ann.org_id
    assert me["role"] == "member"
    assert me["permissions"] == tokens["scope"].split()
    assert me["credential"]["kind"] == "session"


async def test_me_tells_what_an_api_key_stands_for(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    key = (await client.post("/api/v1/api-keys", json={"name": "CI", "scopes": ["executions.read"]})).json()
    me = (await anonymous.get(ME, headers=bearer(key["key"]))).json()
    assert (me["role"], me["permissions"]) == ("owner", ["executions.read"])
    assert me["credential"] == {"kind": "api_key", "id": key["id"], "expires_at": None}


async def test_me_needs_a_credential(anonymous: httpx.AsyncClient) -> None:
    refused(await anonymous.get(ME), 401, "missing_credentials")
    refused(await anonymous.get(ME, headers=bearer("sk_nonsense")), 401, "invalid_token")


async def test_case_and_spaces_of_an_e_mail_do_not_matter(anonymous: httpx.AsyncClient, ann: Person) -> None:
    for spelling in (ann.email.upper(), f"  {ann.email} "):
        assert (await anonymous.post(TOKEN, data=ann.form | {"username": spelling})).status_code == 200


async def test_the_organisation_is_the_one_asked_for_else_the_one_joined_first(
    anonymous: httpx.AsyncClient, ann: Person, database: Database
) -> None:
    second = await join_another(database, ann)
    assert (await signed_in(anonymous, ann))["org_id"] == ann.org_id
    tokens = await signed_in(anonymous, ann, scope=f"org:{second}")
    assert tokens["org_id"] == second
    me = (await anonymous.get(ME, headers=bearer(tokens["access_token"]))).json()
    assert (me["organization"], me["role"]) == ({"id": second, "name": "Second"}, "owner")
    assert (await anonymous.post(REFRESH, json={"refresh_token": tokens["refresh_token"]})).json()["org_id"] == second


async def test_scopes_narrow_a_session_for_good(anonymous: httpx.AsyncClient, ann: Person) -> None:
    # audit.read is beyond a member's role: asking for it does not give it.
    tokens = await signed_in(anonymous, ann, scope="executions.read audit.read")
    assert tokens["scope"] == "executions.read"
    refreshed = (await anonymous.post(REFRESH, json={"refresh_token": tokens["refresh_token"]})).json()
    assert refreshed["scope"] == "executions.read"
    for access_token in (tokens["access_token"], refreshed["access_token"]):
        answer = await anonymous.get("/api/v1/api-keys", headers=bearer(access_token))
        refused(answer, 403, "insufficient_scope")


async def test_a_scope_nobody_knows_is_refused_rather_than_ignored(anonymous: httpx.AsyncClient) -> None:
    for scope in ("executions:read", "executions.read nonsense", "org:org_a org:org_b"):
        form = {"username": "ann@example.com", "password": PASSWORD, "scope": scope}
        problem = refused(await anonymous.post(TOKEN, data=form), 422, "validation_error")
        assert problem["errors"][0]["pointer"] == "/scope"
        assert "nonsense" not in problem["detail"]


async def test_every_wrong_sign_in_gets_the_same_answer(
    anonymous: httpx.AsyncClient, ann: Person, database: Database
) -> None:
    answers = [
        await anonymous.post(TOKEN, data=ann.form | {"password": "wrong"}),
        await anonymous.post(TOKEN, data=ann.form | {"username": "nobody@example.com"}),
        await anonymous.post(TOKEN, data=ann.form | {"scope": "org:org_elsewhere"}),
    ]
    await database.execute("UPDATE users SET disabled = true WHERE id = $1", ann.id)
    answers.append(await anonymous.post(TOKEN, data=ann.form))
    await database.execute("UPDATE users SET disabled = false, password_hash = NULL WHERE id = $1", ann.id)
    answers.append(await anonymous.post(TOKEN, data=ann.form))
    for answer in answers:
        assert refused(answer, 401, "invalid_credentials")["detail"] == WRONG
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json() | {"request_id": ""} == answers[0].json() | {"request_id": ""}


async def test_a_sign_in_is_audited_with_where_it_came_from(
    anonymous: httpx.AsyncClient, client: httpx.AsyncClient, ann: Person
) -> None:
    headers = {"User-Agent": "browser/1", "X-Request-ID": "request-1"}
    assert (await anonymous.post(TOKEN, data=ann.form, headers=headers)).status_code == 200
    (row,) = await audited(client, "auth.signed_in", ann)
    assert (row["success"], row["error_code"], row["error_message"]) == (True, None, None)
    assert (row["org_id"], row["resource_type"], row["resource_id"]) == (ann.org_id, "user", ann.id)
    assert (row["user_agent"], row["request_id"]) == ("browser/1", "request-1")
    assert row["ip_address"]


async def test_a_failed_sign_in_is_audited_where_the_user_joined_first(
    anonymous: httpx.AsyncClient, client: httpx.AsyncClient, ann: Person, database: Database
) -> None:
    second = await join_another(database, ann)
    headers = {"User-Agent": "guesser/1"}
    await anonymous.post(TOKEN, data=ann.form | {"username": "nobody@example.com"}, headers=headers)
    await anonymous.post(TOKEN, data=ann.form | {"password": "guess", "scope": f"org:{second}"}, headers=headers)
    (row,) = await audited_soon(client, "auth.sign_in_failed", ann)
    assert (row["success"], row["error_code"], row["error_message"]) == (False, "invalid_credentials", WRONG)
    assert (row["org_id"], row["user_agent"]) == (ann.org_id, "guesser/1")
    assert row["ip_address"]
    written = "SELECT count(*) FROM audit_logs WHERE action = 'auth.sign_in_failed' AND user_agent = 'guesser/1'"
    assert await database.fetchval(written) == 1


async def test_guessing_is_throttled_for_the_account_and_only_for_it(ann: Person, live: Live, tmp_path: Path) -> None:
    async with live_server(live.database, tmp_path) as unhurried, unhurried.http() as anonymous:
        for _ in range(10):
            refused(await anonymous.post(TOKEN, data=ann.form | {"password": "guess"}), 401, "invalid_credentials")
        for form in (ann.form, ann.form | {"username": ann.email.upper()}):
            answer = await anonymous.post(TOKEN, data=form)
            assert refused(answer, 429, "rate_limited")["retryable"]
            assert 0 < int(answer.headers["retry-after"]) <= 60
        await live.database.execute("UPDATE users SET email = 'other-' || email WHERE id = $1", ann.id)
        assert (await anonymous.post(TOKEN, data=ann.form | {"username": f"other-{ann.email}"})).status_code == 200


async def test_an_old_hash_is_renewed_at_sign_in(anonymous: httpx.AsyncClient, ann: Person, database: Database) -> None:
    stored = "SELECT password_hash FROM users WHERE id = $1"
    old = await Passwords(memory_kib=128, time_cost=2).hash(PASSWORD)
    await database.execute("UPDATE users SET password_hash = $2 WHERE id = $1", ann.id, old)
    refused(await anonymous.post(TOKEN, data=ann.form | {"password": "guess"}), 401, "invalid_credentials")
    assert await database.fetchval(stored, ann.id) == old
    await signed_in(anonymous, ann)
    new = await database.fetchval(stored, ann.id)
    assert new != old
    assert await CHEAP.verify(new, PASSWORD)
    await signed_in(anonymous, ann)
    assert await database.fetchval(stored, ann.id) == new


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b'{"username": "a", "password": "b"}', {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
        (b"--x\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
        (b"username=a&password=b", {}, 415, "unsupported_media_type"),
        (b"", FORM, 422, "validation_error"),
        (b"username=a", FORM, 422, "validation_error"),
        (b"username=a&password=b&grant_type=client_credentials", FORM, 422, "validation_error"),
        (b"username=a&password=" + b"b" * 8192, FORM, 413, "body_too_large"),
    ],
)
async def test_the_form_is_small_and_complete(
    anonymous: httpx.AsyncClient, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    refused(await anonymous.post(TOKEN, content=content, headers=headers), status, code)


async def test_a_refresh_token_is_good_for_one_refresh(anonymous: httpx.AsyncClient, ann: Person) -> None:
    first = await signed_in(anonymous, ann)
    answer = await anonymous.post(REFRESH, json={"refresh_token": first["refresh_token"]})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    second = answer.json()
    assert set(second) == set(first)
    assert second["refresh_token"] != first["refresh_token"]
    assert (await anonymous.get(ME, headers=bearer(second["access_token"]))).json()["user"]["id"] == ann.id


async def test_a_refresh_token_that_comes_back_ends_the_session_and_is_audited(
    anonymous: httpx.AsyncClient, client: httpx.AsyncClient, ann: Person
) -> None:
    first = await signed_in(anonymous, ann)
    other = await signed_in(anonymous, ann)
    second = (await anonymous.post(REFRESH, json={"refresh_token": first["refresh_token"]})).json()
    answer = await anonymous.post(REFRESH, json={"refresh_token": first["refresh_token"]})
    refused(answer, 401, "refresh_reused")
    refused(await anonymous.post(REFRESH, json={"refresh_token": second["refresh_token"]}), 401, "invalid_token")
    assert (await anonymous.post(REFRESH, json={"refresh_token": other["refresh_token"]})).status_code == 200
    (row,) = await audited(client, "auth.refresh_reused", ann)
    assert (row["success"], row["error_code"], row["org_id"]) == (False, "refresh_reused", ann.org_id)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE users SET token_version = token_version + 1 WHERE id = $1",
        "UPDATE users SET disabled = true WHERE id = $1",
        "DELETE FROM memberships WHERE user_id = $1",
    ],
)
async def test_a_session_ends_with_what_it_stood_for(
    anonymous: httpx.AsyncClient, ann: Person, database: Database, change: str
) -> None:
    tokens = await signed_in(anonymous, ann)
    await database.execute(change, ann.id)
    refused(await anonymous.post(REFRESH, json={"refresh_token": tokens["refresh_token"]}), 401, "invalid_token")
    # Nothing has used the access token yet, so no answer about it is remembered.
    refused(await anonymous.get(ME, headers=bearer(tokens["access_token"])), 401, "invalid_token")


async def test_access_and_refresh_tokens_do_not_stand_in_for_each_other(
    anonymous: httpx.AsyncClient, ann: Person
) -> None:
    tokens = await signed_in(anonymous, ann)
    refused(await anonymous.get(ME, headers=bearer(tokens["refresh_token"])), 401, "invalid_token")
    too_long = await anonymous.post(REFRESH, json={"refresh_token": tokens["access_token"]})
    refused(too_long, 422, "validation_error")
    for text in ("rt_", tokens["refresh_token"][:-1] + "é", tokens["refresh_token"].swapcase(), "\u0000"):
        refused(await anonymous.post(REFRESH, json={"refresh_token": text}), 401, "invalid_token")


async def test_signing_out_ends_the_session_and_is_audited(
    anonymous: httpx.AsyncClient, client: httpx.AsyncClient, ann: Person
) -> None:
    first = await signed_in(anonymous, ann)
    second = (await anonymous.post(REFRESH, json={"refresh_token": first["refresh_token"]})).json()
    answer = await anonymous.post(LOGOUT, json={"refresh_token": second["refresh_token"]})
    assert (answer.status_code, answer.content) == (204, b"")
    refused(await anonymous.post(REFRESH, json={"refresh_token": second["refresh_token"]}), 401, "invalid_token")
    (row,) = await audited(client, "auth.signed_out", ann)
    assert (row["success"], row["org_id"]) == (True, ann.org_id)


async def test_signing_out_of_no_session_is_no_error(anonymous: httpx.AsyncClient) -> None:
    for text in ("nonsense", "rt_01k2m3n4p5q6r7s8t9v0w1x2y3_" + "0" * 49):
        assert (await anonymous.post(LOGOUT, json={"refresh_token": text})).status_code == 204
    refused(await anonymous.post(LOGOUT, json={}), 422, "validation_error")


async def test_no_password_and_no_token_is_logged_or_stored(
    anonymous: httpx.AsyncClient, client: httpx.AsyncClient, ann: Person, database: Database
) -> None:
    with capture_logs() as logs:
        tokens = await signed_in(anonymous, ann)
        await anonymous.post(TOKEN, data=ann.form | {"password": "a wrong secret"})
        refreshed = (await anonymous.post(REFRESH, json={"refresh_token": tokens["refresh_token"]})).json()
        await anonymous.post(REFRESH, json={"refresh_token": tokens["refresh_token"]})
        ticket = (await client.post(TICKETS, json={})).json()["ticket"]
        await audited_soon(client, "auth.sign_in_failed", ann)
    kept = str(logs)
    for table in ("users", "refresh_tokens", "stream_tickets", "audit_logs"):
        kept += str(await database.fetchval(f"SELECT jsonb_agg({table})::text FROM {table}"))
    assert ann.email in kept
    secrets = (PASSWORD, "a wrong secret", ticket, tokens["access_token"], refreshed["access_token"])
    parts = [token["refresh_token"].rpartition("_")[2] for token in (tokens, refreshed)]
    for secret in (*secrets, *parts):
        assert secret not in kept
