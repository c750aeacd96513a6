"""Stream tickets over HTTP: for one's own streams only, and kept as a hash with all that they are bound to."""

from typing import Any

import asyncpg
import httpx

from app import clock
from tests.database import Database

TICKETS, ME = "/api/v1/stream-tickets", "/api/v1/auth/me"


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return dict(answer.json())


async def test_a_ticket_is_for_one_stream_one_site_and_30_seconds(
    viewer_client: httpx.AsyncClient, database: Database
) -> None:
    me = (await viewer_client.get(ME)).json()
    execution_id = await add_execution(database, me["organization"]["id"])
    answer = await viewer_client.post(
        TICKETS, json={"execution_id": execution_id}, headers={"Origin": "https://ui.example.com"}
    )
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    ticket = answer.json()["ticket"]
    assert answer.json() == {
        "ticket": ticket, "expires_in": 30, "protocols": ["stepstream.v1", f"ticket.{ticket}"],
    }  # fmt: skip
    (row,) = await tickets_of(database, me["organization"]["id"])
    assert (row["execution_id"], row["origin"]) == (execution_id, "https://ui.example.com")
    assert (row["user_id"], row["credential_id"]) == (me["user"]["id"], me["credential"]["id"])
    assert row["permissions"] == me["permissions"]
    assert 0 < (row["expires_at"] - clock.now()).total_seconds() <= 30


async def test_a_ticket_without_an_execution_is_for_the_organisations_stream(
    viewer_client: httpx.AsyncClient, database: Database
) -> None:
    org_id = (await viewer_client.get(ME)).json()["organization"]["id"]
    for body in ({}, {"execution_id": None}):
        assert (await viewer_client.post(TICKETS, json=body)).status_code == 201
    assert [row["execution_id"] for row in await tickets_of(database, org_id)] == [None, None]


async def test_no_ticket_for_an_execution_of_another_organisation_or_of_none(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, database: Database
) -> None:
    org_ids = [(await each.get(ME)).json()["organization"]["id"] for each in (client, other_client)]
    execution_id = await add_execution(database, org_ids[0])
    answers = [
        refused(await other_client.post(TICKETS, json={"execution_id": wanted}), 404, "not_found")
        for wanted in (execution_id, "exec_01k2m3n4p5q6r7s8t9v0w1x2y3")
    ]
    assert answers[0] | {"request_id": ""} == answers[1] | {"request_id": ""}
    assert await tickets_of(database, org_ids[0]) == await tickets_of(database, org_ids[1]) == []


async def test_a_ticket_needs_the_permission_to_read_executions(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    refused(await anonymous.post(TICKETS, json={}), 401, "missing_credentials")
    key = (await client.post("/api/v1/api-keys", json={"name": "CI", "scopes": ["workflows.read"]})).json()["key"]
    answer = await anonymous.post(TICKETS, json={}, headers={"Authorization": f"Bearer {key}"})
    refused(answer, 403, "insufficient_scope")


async def tickets_of(database: Database, org_id: str) -> list[asyncpg.Record]:
    return await database.fetch("SELECT * FROM stream_tickets WHERE org_id = $1", org_id)


async def add_execution(database: Database, org_id: str) -> str:
    execution_id = clock.new_id("exec")
    await database.execute(
        "INSERT INTO workflows (org_id, id, name, latest_version) VALUES ($1, 'wf_auth', 'Workflow', 1)", org_id
    )
    await database.execute(
        "INSERT INTO workflow_versions (org_id, workflow_id, version, definition) VALUES ($1, 'wf_auth', 1, '{}')",
        org_id,
    )
    await database.execute(
        "INSERT INTO executions (id, root_id, org_id, user_id, workflow_id, workflow_version, status) "
        "SELECT $2, $2, org_id, user_id, 'wf_auth', 1, 'COMPLETED' FROM memberships WHERE org_id = $1 LIMIT 1",
        org_id,
        execution_id,
    )
    return execution_id
