"""The audit log over HTTP: one's own organisation's rows, every filter, every page, and no way to change any."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from app import clock
from tests.api.live import Organization
from tests.database import Database

AUDIT = "/api/v1/audit-logs"
FIELDS = {
    "id", "org_id", "user_id", "action", "resource_type", "resource_id", "details", "ip_address", "user_agent",
    "request_id", "success", "error_code", "error_message", "timestamp",
}  # fmt: skip
MORNING = datetime(2001, 2, 3, 8, tzinfo=UTC)


async def add_row(database: Database, org_id: str, **changes: object) -> str:
    """A row of the year 2001, long before those that the test's own requests leave."""
    row: dict[str, object] = {
        "id": clock.new_id("audit"),
        "org_id": org_id,
        "user_id": "user_old",
        "action": "workflow.executed",
        "resource_type": "workflow",
        "resource_id": "wf_old",
        "details": '{"n":1.50}',
        "success": True,
        "timestamp": MORNING,
        **changes,
    }
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await database.execute(f"INSERT INTO audit_logs ({', '.join(row)}) VALUES ({places})", *row.values())
    return str(row["id"])


async def found(client: httpx.AsyncClient, **filters: str | int) -> list[str]:
    """The ids of the rows of 2001 that match, the newest first."""
    answer = await client.get(AUDIT, params={"created_before": "2002-01-01T00:00:00Z", **filters})
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()["data"]]


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return dict(answer.json())


async def test_a_row_tells_who_did_what_from_where(
    client: httpx.AsyncClient, organization: Organization, database: Database
) -> None:
    failed = {
        "success": False, "error_code": "step_error", "error_message": "ValueError: no connector",
        "ip_address": "192.0.2.7", "user_agent": "curl/8", "request_id": "request-1",
    }  # fmt: skip
    row_id = await add_row(database, organization.id, **failed)
    answer = await client.get(AUDIT, params={"action": "workflow.executed"})
    (row,) = answer.json()["data"]
    assert set(row) == FIELDS
    assert row == failed | {
        "id": row_id,
        "org_id": organization.id,
        "user_id": "user_old",
        "action": "workflow.executed",
        "resource_type": "workflow",
        "resource_id": "wf_old",
        "details": {"n": 1.5},
        "timestamp": "2001-02-03T08:00:00Z",
    }
    assert '"details":{"n":1.50}' in answer.text


async def test_what_was_done_on_the_server_itself_has_no_user(client: httpx.AsyncClient) -> None:
    (row,) = (await client.get(AUDIT, params={"action": "organization.created"})).json()["data"]
    assert (row["user_id"], row["ip_address"], row["request_id"]) == (None, None, None)


async def test_every_filter_narrows(client: httpx.AsyncClient, organization: Organization, database: Database) -> None:
    noon = MORNING + timedelta(hours=4)
    plain = await add_row(database, organization.id)
    other = await add_row(
        database, organization.id, action="workflow.created", resource_type="draft", resource_id="wf_new",
        user_id="user_new", success=False, timestamp=noon,
    )  # fmt: skip
    assert await found(client) == [other, plain]
    for name, ours, others in (
        ("action", "workflow.executed", "workflow.created"),
        ("resource_type", "workflow", "draft"),
        ("resource_id", "wf_old", "wf_new"),
        ("user_id", "user_old", "user_new"),
        ("success", "true", "false"),
    ):
        assert await found(client, **{name: ours}) == [plain], name
        assert await found(client, **{name: others}) == [other], name
    assert await found(client, action="workflow.created", success="true") == []
    assert await found(client, action="workflow.%") == []


async def test_times_filter_from_the_first_on_and_before_the_second(
    client: httpx.AsyncClient, organization: Organization, database: Database
) -> None:
    rows = [await add_row(database, organization.id, timestamp=MORNING + timedelta(hours=n)) for n in range(3)]
    assert await found(client, created_after="2001-02-03T09:00:00Z") == [rows[2], rows[1]]
    assert await found(client, created_after="2001-02-03T10:00:00+01:00") == [rows[2], rows[1]]
    assert await found(client, created_before="2001-02-03T09:00:00Z") == [rows[0]]


async def test_pages_have_every_row_once_the_newest_first(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, organization: Organization, database: Database
) -> None:
    rows = [await add_row(database, organization.id) for _ in range(5)]
    seen: list[str] = []
    url = f"{AUDIT}?action=workflow.executed&limit=2"
    while url:
        answer = await client.get(url)
        seen += [row["id"] for row in answer.json()["data"]]
        url = answer.links.get("next", {}).get("url", "")
        assert answer.json()["has_more"] is bool(url)
    assert seen == rows[::-1]
    cursor = (await client.get(AUDIT, params={"limit": 1})).json()["next_cursor"]
    refused(await other_client.get(AUDIT, params={"cursor": cursor}), 422, "invalid_cursor")
    refused(await client.get(AUDIT, params={"cursor": cursor + "A"}), 422, "invalid_cursor")


async def test_nobody_reads_another_organisations_log(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, organization: Organization, database: Database
) -> None:
    await add_row(database, organization.id)
    assert len(await found(client)) == 1
    assert await found(other_client) == []
    rows = (await other_client.get(AUDIT)).json()["data"]
    assert rows
    assert organization.id not in {row["org_id"] for row in rows}


async def test_reading_needs_the_permission_and_the_denial_is_on_record(
    client: httpx.AsyncClient, viewer_client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    refused(await anonymous.get(AUDIT), 401, "missing_credentials")
    refused(await viewer_client.get(AUDIT), 403, "insufficient_scope")
    viewer_id = (await viewer_client.get("/api/v1/auth/me")).json()["user"]["id"]
    (row,) = (await client.get(AUDIT, params={"action": "access.denied"})).json()["data"]
    assert (row["user_id"], row["success"], row["error_code"]) == (viewer_id, False, "insufficient_scope")
    assert (row["resource_type"], row["resource_id"]) == ("permission", "audit.read")
    assert row["ip_address"]
    assert row["user_agent"]


async def test_a_filter_that_cannot_be_read_is_refused(client: httpx.AsyncClient) -> None:
    for name, value in (
        ("limit", "0"), ("limit", "201"), ("success", "perhaps"), ("created_after", "yesterday"),
        ("created_before", "2001-02-03T09:00:00"), ("action", "x" * 201),
    ):  # fmt: skip
        problem = refused(await client.get(AUDIT, params={name: value}), 422, "validation_error")
        assert [error["pointer"] for error in problem["errors"]] == [f"query:{name}"]
    refused(await client.get(AUDIT, params={"cursor": "nonsense"}), 422, "invalid_cursor")


async def test_no_request_changes_the_log(
    client: httpx.AsyncClient, organization: Organization, database: Database
) -> None:
    row_id = await add_row(database, organization.id)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        refused(await client.request(method, AUDIT), 405, "method_not_allowed")
        assert (await client.request(method, f"{AUDIT}/{row_id}")).status_code == 404
    assert await found(client) == [row_id]
