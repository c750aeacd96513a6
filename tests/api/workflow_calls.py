"""Definitions and calls that the tests about workflows share."""

from typing import Any

import httpx

from app import clock
from tests.database import Database

PATH = "/api/v1/workflows"

GREET: dict[str, Any] = {
    "name": "Greet",
    "description": "Says hello",
    "steps": [{"id": "greet", "type": "set", "with": {"text": "Hello"}}],
}
BROKEN: dict[str, Any] = {
    "name": "Broken",
    "steps": [
        {"id": "a", "type": "set", "needs": ["nowhere"]},
        {"id": "b", "type": "no_such_type"},
        {"id": "b", "type": "set"},
    ],
}
UNCONFIGURED: dict[str, Any] = {
    "name": "Ask",
    "steps": [{"id": "ask", "type": "agent", "with": {"model": "anthropic:claude-opus-4-5", "prompt": "Hi"}}],
}


def greeting(text: str) -> dict[str, Any]:
    return GREET | {"steps": [{"id": "greet", "type": "set", "with": {"text": text}}]}


async def create(client: httpx.AsyncClient, document: Any = GREET, **params: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json=document, params=params)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def put(
    client: httpx.AsyncClient, workflow_id: str, document: Any, if_match: str | None, **params: Any
) -> httpx.Response:
    headers = {} if if_match is None else {"If-Match": if_match}
    return await client.put(f"{PATH}/{workflow_id}", json=document, headers=headers, params=params)


async def delete(client: httpx.AsyncClient, workflow_id: str, if_match: str = "*") -> httpx.Response:
    return await client.delete(f"{PATH}/{workflow_id}", headers={"If-Match": if_match})


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    return body


def codes(problems: list[dict[str, str]]) -> dict[str, str]:
    return {problem["pointer"]: problem["code"] for problem in problems}


async def add_executions(
    database: Any, workflow: dict[str, Any], duration: float | None = None, count: int = 1
) -> None:
    """Ended executions, so that no engine takes them up; each call's are newer than those of the call before."""
    await database.execute(
        "INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, status, started_at, "
        "completed_at, duration_seconds) "
        "SELECT $1 || n, $1, $2, $3, $4, (SELECT min(user_id) FROM memberships WHERE org_id = $2), 'CANCELLED', "
        "clock_timestamp() + interval '1 s', clock_timestamp() + interval '2 s', $5 FROM generate_series(1, $6) n",
        clock.new_id("exec"),
        workflow["org_id"],
        workflow["id"],
        workflow["version"],
        duration,
        count,
    )


async def audited(database: Database, workflow_id: str) -> list[tuple[str, Any]]:
    rows = await database.fetch(
        "SELECT action, details::jsonb ->> 'version' AS version, details::jsonb ->> 'name' AS name FROM audit_logs "
        "WHERE resource_type = 'workflow' AND resource_id = $1 AND success ORDER BY id",
        workflow_id,
    )
    return [(row["action"], (int(row["version"]), row["name"])) for row in rows]
