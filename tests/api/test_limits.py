"""Limits, proxies, headers and origins, as clients of a whole server see them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import websockets
from websockets.exceptions import InvalidStatus

from tests.api.live import Live, Member, live_server
from tests.api.test_executions import save
from tests.database import Database, Server

PAGE = "https://app.example.com"


@pytest.fixture(scope="module")
async def strict(server: Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    """A server with limits that a test can reach."""
    limits = {
        "max_request_rate": 40, "max_refused_rate": 5, "max_streams_per_user": 2, "max_requests": 4,
        "max_waiting_requests": 1, "trusted_proxies": "127.0.0.1, 10.0.0.0/8", "allowed_origins": PAGE,
    }  # fmt: skip
    async with server.database(template) as database:
        async with live_server(database, tmp_path_factory.mktemp("strict"), **limits) as running:
            yield running


@pytest.fixture
async def member(strict: Live) -> Member:
    return await (await strict.organization()).member()


async def test_every_answer_tells_how_the_caller_stands_and_the_one_too_many_is_429(
    strict: Live, member: Member
) -> None:
    async with member.http() as http:
        answers = [await http.get("/api/v1/workflows")]
        while answers[-1].status_code == 200:
            answers.append(await http.get("/api/v1/workflows"))
        other = await (await strict.organization()).member()
        async with other.http() as another:
            assert (await another.get("/api/v1/workflows")).status_code == 200
    assert len(answers) > 40
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=40;w=10'}
    assert answers[0].headers["ratelimit"] == '"requests";r=39;t=1'
    refused = answers[-1]
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (429, "rate_limited", "1")
    assert refused.headers["ratelimit"] == '"requests";r=0;t=1'


async def test_refused_credentials_are_counted_by_the_address_that_a_trusted_proxy_names(strict: Live) -> None:
    async with strict.http("sk_nonsense") as http:

        async def ask(forwarded: str) -> int:
            return (await http.get("/api/v1/workflows", headers={"X-Forwarded-For": forwarded})).status_code

        assert [await ask("192.0.2.7") for _ in range(6)] == [401] * 5 + [429]
        assert await ask("192.0.2.8") == 401
        assert await ask("192.0.2.7, 10.1.2.3") == 429
        assert await ask("192.0.2.9, 192.0.2.7") == 429


async def test_an_address_from_an_untrusted_peer_is_not_believed(live: Live) -> None:
    member = await (await live.organization()).member()
    async with member.http() as http:
        http.headers.update({"X-Forwarded-For": "192.0.2.7", "X-Org-Id": "org_other"})
        await save(http, {"name": "One", "steps": [{"id": "a", "type": "set", "with": {}}]})
        logged = (await http.get("/api/v1/audit-logs")).json()["data"]
    assert {row["ip_address"] for row in logged if row["user_id"] == member.user_id} == {"127.0.0.1"}


async def test_streams_have_a_limit_of_their_own_and_hold_no_places(strict: Live, member: Member) -> None:
    waiting = {"name": "Wait", "steps": [{"id": "a", "type": "delay", "with": {"duration": "1h"}}]}
    async with member.http() as http:
        started = await http.post("/api/v1/executions", json={"workflow_id": await save(http, waiting), "input": None})
        path = f"/api/v1/executions/{started.json()['id']}"
        uri, headers = f"ws{strict.url[4:]}{path}/stream", {"Authorization": f"Bearer {member.token}"}
        live = http.stream("GET", f"{path}/events", headers={"Accept": "text/event-stream"})
        async with live as sse, websockets.connect(uri, additional_headers=headers) as socket:
            while json.loads(await socket.recv())["type"] != "execution_waiting":
                pass
            assert sse.status_code == 200
            third = await http.get(f"{path}/events", headers={"Accept": "text/event-stream"})
            with pytest.raises(InvalidStatus) as refused:
                await websockets.connect(uri, additional_headers=headers)
            problem = json.loads(refused.value.response.body or b"")
            assert (third.status_code, third.json()["code"]) == (429, "too_many_streams")
            assert (refused.value.response.status_code, problem["code"]) == (429, "too_many_streams")
            assert refused.value.response.headers["retry-after"] == "5"
            assert refused.value.response.headers["x-request-id"] == problem["request_id"]
            first = asyncio.create_task(http.get(path, headers={"Prefer": "wait=60"}))
            second = asyncio.create_task(http.get(path, headers={"Prefer": "wait=60"}))
            (told,), (waits,) = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
            assert (await told).json()["status"] == "WAITING"
            (await http.post(f"{path}/cancel", json={})).raise_for_status()
            assert (await waits).json()["status"] == "CANCELLED"


async def test_what_is_one_too_many_is_told_before_the_database_is_asked(strict: Live, member: Member) -> None:
    """Three requests of an organisation hang on a lock: its fourth is refused, others and probes are served."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'stepstream-api' "
        f"AND datname = '{strict.database.name}'"
    )
    other = await (await strict.organization()).member()
    async with strict.database.connected() as locker, member.http() as http, other.http() as another:
        transaction = locker.transaction()
        await transaction.start()
        await locker.execute("LOCK TABLE workflows IN ACCESS EXCLUSIVE MODE")
        hanging = [asyncio.create_task(http.get("/api/v1/workflows")) for _ in range(3)]
        while await strict.database.fetchval(waiting) < 3:
            pass
        refused = await http.get("/api/v1/workflows")
        assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
        assert (await another.get("/api/v1/audit-logs")).status_code == 200
        assert (await another.get("/health/ready")).status_code == 200
        await transaction.rollback()
        assert {(await answer).status_code for answer in hanging} == {200}
        assert (await http.get("/api/v1/workflows")).status_code == 200


async def test_a_quota_that_is_used_up_starts_nothing_and_says_until_when(database: Database, tmp_path: Path) -> None:
    async with live_server(database, tmp_path / "data", max_started_per_minute=1) as server:
        async with (await (await server.organization()).member()).http() as http:
            workflow_id = await save(http, {"name": "One", "steps": [{"id": "a", "type": "set", "with": {}}]})
            path, key = f"/api/v1/workflows/{workflow_id}/execute", {"Idempotency-Key": "one"}
            first, replayed = [await http.post(path, headers=key) for _ in range(2)]
            answers = [first, *[await http.post(path) for _ in range(2)]]
            listed = (await http.get("/api/v1/executions")).json()["data"]
    assert (replayed.status_code, replayed.json()["id"]) == (201, first.json()["id"]), "it starts nothing"
    started = [answer for answer in answers if answer.status_code == 201]
    assert len(listed) == len(started) <= 2  # the minute may have changed meanwhile
    refused = answers[-1] if answers[-1].status_code == 429 else answers[1]
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 60


async def test_security_headers_are_on_every_answer_whoever_gives_it(strict: Live, member: Member) -> None:
    async with strict.http() as http:
        paths = ("/api/v1/workflows", "/api/v1/nothing", "/health/live", "/nothing", "/docs", "/api/v1/%00")
        answers = {path: await http.get(path) for path in paths}
        secure = await http.get("/health/live", headers={"X-Forwarded-Proto": "https"})
    for path, answer in answers.items():
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert ("default-src 'none'" in answer.headers["content-security-policy"]) == (path != "/docs")
        assert "server" not in answer.headers
        assert "strict-transport-security" not in answer.headers
        if path.startswith("/api/"):
            assert answer.headers["cache-control"] == "no-store"
    assert secure.headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.parametrize("path", ["/api/v1/%00", "/api/v1/a%0ab", "/api/v1/%zz", "/api/v1/%", "/api/v1/%c0%ae", "/%ff"])
async def test_a_path_that_cannot_be_read_is_400(live: Live, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(live.url.rpartition(":")[2]))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert (head.split(b" ")[1], json.loads(body)["code"]) == (b"400", "invalid_path")


@pytest.mark.parametrize(
    "path", ["/api/v1/..%2fhealth", "/api/v1/workflows/..;/x", "/api/v1/workflows/a\\b", "//health"]
)
async def test_a_path_that_means_nothing_is_404(anonymous: httpx.AsyncClient, path: str) -> None:
    assert (await anonymous.get(path)).status_code in {401, 404}


async def test_only_the_configured_origin_may_read_and_without_cookies(strict: Live, member: Member) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with member.http() as http:
        allowed = await http.get("/api/v1/workflows", headers={"Origin": PAGE})
        refused = await http.get("/api/v1/nothing", headers={"Origin": PAGE})
        too_large = await http.post("/api/v1/executions", headers={"Origin": PAGE}, content=b" " * (2 << 20))
        preflight = await http.options("/api/v1/workflows", headers={"Origin": PAGE, **asked})
        for origin in ("https://evil.example.com", f"{PAGE}.evil.com", "null", PAGE.upper(), f"{PAGE}:444"):
            foreign = await http.get("/api/v1/workflows", headers={"Origin": origin})
            assert "access-control-allow-origin" not in foreign.headers
            refused_preflight = await http.options("/api/v1/workflows", headers={"Origin": origin, **asked})
            assert (refused_preflight.status_code, refused_preflight.json()["code"]) == (405, "method_not_allowed")
            assert "access-control-allow-origin" not in refused_preflight.headers
    for answer in (allowed, refused, too_large, preflight):
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "Origin" in answer.headers["vary"].split(", ")
        assert "access-control-allow-credentials" not in answer.headers
    assert too_large.status_code == 413
    assert "RateLimit" in allowed.headers["access-control-expose-headers"]


async def test_without_configured_origins_there_are_no_cors_headers(live: Live) -> None:
    async with live.http() as http:
        answer = await http.get("/health/live", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_body_that_ends_early_is_nobodys_error(live: Live, capfd: pytest.CaptureFixture[str]) -> None:
    member = await (await live.organization()).member()
    _, writer = await asyncio.open_connection("127.0.0.1", int(live.url.rpartition(":")[2]))
    writer.write(
        f"POST /api/v1/executions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {member.token}\r\n"
        'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"workflow_id"'.encode()
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with live.http() as http:
        assert (await http.get("/health/live")).status_code == 200
    assert "Traceback" not in "".join(capfd.readouterr())
