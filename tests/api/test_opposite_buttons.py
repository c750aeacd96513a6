"""Two people press opposite buttons at once: both are answered, one history comes of it, and the run goes by it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from app.auth.permissions import Role
from tests.api.control_calls import PATH, audited
from tests.api.live import Organization
from tests.api.workflow_calls import create
from tests.database import Database

ROUNDS = 20
WAIT = {"id": "w", "type": "wait_for_signal", "with": {"signal": "go"}}
Json = dict[str, Any]


@pytest.fixture
async def colleague(organization: Organization) -> Any:
    """The second person."""
    async with (await organization.member(Role.ADMIN)).http() as signed_in:
        yield signed_in


async def rounds(play: Callable[[], Awaitable[None]]) -> None:
    """A few at a time: who asks without end for a status would find the database busy on a slow machine."""
    turns = asyncio.Semaphore(4)

    async def one() -> None:
        async with turns:
            await play()

    async with asyncio.TaskGroup() as group:
        for _ in range(ROUNDS):
            group.create_task(one())


async def start(client: httpx.AsyncClient, workflow: Json, **body: Any) -> str:
    answer = await client.post(PATH, json={"workflow_id": workflow["id"], **body})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def look(client: httpx.AsyncClient, execution_id: str, **headers: str) -> Json:
    found: Json = (await client.get(f"{PATH}/{execution_id}", headers=headers)).json()
    return found


async def reached(client: httpx.AsyncClient, execution_id: str, *statuses: str) -> Json:
    while (detail := await look(client, execution_id))["status"] not in statuses:
        continue
    return detail


async def ended(client: httpx.AsyncClient, execution_id: str) -> Json:
    detail = await look(client, execution_id, Prefer="wait=30")
    assert detail["completed_at"], detail
    return detail


async def happened(database: Database, lock: asyncio.Lock, execution_id: str, *kinds: str) -> list[str]:
    """Types of the events of these kinds, once all mail has been taken note of and nobody has anything to do."""
    busy = (
        "SELECT count(*) FROM executions e WHERE id = $1 AND (owner IS NOT NULL OR ready OR EXISTS ("
        "SELECT FROM execution_inbox i WHERE i.execution_id = e.id AND applied_at IS NULL))"
    )
    events = "SELECT type FROM execution_events WHERE execution_id = $1 AND type = ANY($2::text[]) ORDER BY seq"
    async with lock:
        while await database.fetchval(busy, execution_id):
            await asyncio.sleep(0)
        return [row["type"] for row in await database.fetch(events, execution_id, kinds)]


async def press(one: Awaitable[httpx.Response], other: Awaitable[httpx.Response]) -> tuple[httpx.Response, ...]:
    answers = await asyncio.gather(one, other)
    assert all(answer.status_code < 500 for answer in answers), [answer.text for answer in answers]
    return tuple(answers)


async def test_pause_and_resume(client: httpx.AsyncClient, colleague: httpx.AsyncClient, database: Database) -> None:
    workflow, lock = await create(client, {"name": "Waits", "steps": [WAIT]}), asyncio.Lock()
    states: set[str] = set()

    async def play() -> None:
        execution_id = await start(client, workflow)
        await reached(client, execution_id, "WAITING")
        url = f"{PATH}/{execution_id}"
        answers = await press(client.post(f"{url}/pause", json={}), colleague.post(f"{url}/resume", json={}))
        assert [answer.status_code for answer in answers] == [202, 202]
        kinds = ("execution_paused", "execution_resumed", "execution_waiting")
        last = (await happened(database, lock, execution_id, *kinds))[-1]
        state = "PAUSED" if last == "execution_paused" else "WAITING"
        assert (await look(client, execution_id))["status"] == state
        states.add(state)
        if state == "PAUSED":
            assert (await client.post(f"{url}/resume", json={})).status_code == 202
        assert (await client.post(f"{url}/signal", json={"name": "go", "payload": 1})).status_code == 202
        assert (await ended(client, execution_id))["status"] == "COMPLETED"
        async with lock:
            noted = await audited(database, execution_id)
        assert {"execution.pause_requested", "execution.resume_requested"} <= set(noted)

    await rounds(play)
    assert states <= {"PAUSED", "WAITING"}


async def test_cancel_and_retry(client: httpx.AsyncClient, colleague: httpx.AsyncClient, database: Database) -> None:
    workflow, lock = await create(client, {"name": "Waits", "steps": [WAIT]}), asyncio.Lock()

    async def play() -> None:
        execution_id = await start(client, workflow)
        url = f"{PATH}/{execution_id}"
        cancelled, retried = await press(client.post(f"{url}/cancel", json={}), colleague.post(f"{url}/retry", json={}))
        assert cancelled.status_code == 202
        assert (await ended(client, execution_id))["status"] == "CANCELLED"
        if retried.status_code != 201:
            assert retried.json()["code"] == "invalid_state"
            cancelled, retried = await press(
                client.post(f"{url}/cancel", json={}), colleague.post(f"{url}/retry", json={})
            )
            assert (cancelled.status_code, retried.status_code) == (409, 201), retried.text
        again = retried.json()
        assert again["retry_of"] == execution_id
        signalled = await client.post(f"{PATH}/{again['id']}/signal", json={"name": "go"})
        assert signalled.status_code == 202, signalled.text
        assert (await ended(client, again["id"]))["status"] == "COMPLETED"
        assert await happened(database, lock, execution_id, "execution_cancelled") == ["execution_cancelled"]
        async with lock:
            noted = [*await audited(database, execution_id), *await audited(database, again["id"])]
        assert noted.count("execution.cancel_requested") == 1
        assert noted.count("execution.created") == 2

    await rounds(play)


async def test_approve_and_reject(
    client: httpx.AsyncClient, colleague: httpx.AsyncClient, organization: Organization, database: Database
) -> None:
    step = {"id": "ok", "type": "approval", "with": {"title": "Pay?"}}
    workflow, lock = await create(client, {"name": "Asks", "steps": [step]}), asyncio.Lock()
    outcomes: list[str] = []
    async with (await organization.member(Role.ADMIN)).http() as third:

        async def play() -> None:
            execution_id = await start(client, workflow)
            await reached(client, execution_id, "WAITING")
            [approval] = (await client.get("/api/v1/approvals", params={"execution_id": execution_id})).json()["data"]
            url = f"/api/v1/approvals/{approval['id']}/decide"
            answers = await press(
                colleague.post(url, json={"decision": "approve"}), third.post(url, json={"decision": "reject"})
            )
            assert sorted(answer.status_code for answer in answers) == [200, 409], [answer.text for answer in answers]
            approved = answers[0].status_code == 200
            detail = await ended(client, execution_id)
            assert detail["status"] == ("COMPLETED" if approved else "FAILED")
            assert detail["error_code"] == (None if approved else "approval_rejected")
            decided = (await client.get(f"/api/v1/approvals/{approval['id']}")).json()
            assert decided["status"] == ("APPROVED" if approved else "REJECTED")
            assert [each["decision"] for each in decided["decisions"]] == ["approve" if approved else "reject"]
            assert await happened(database, lock, execution_id, "approval_decided") == ["approval_decided"]
            async with lock:
                noted = await audited(database, approval["id"])
            assert noted == ["approval.approved" if approved else "approval.rejected"]
            outcomes.append(detail["status"])

        await rounds(play)
    assert len(outcomes) == ROUNDS


async def test_edit_and_resume(client: httpx.AsyncClient, colleague: httpx.AsyncClient, database: Database) -> None:
    steps = [
        {"id": "a", "type": "set", "with": {"n": 1}},
        {"id": "b", "type": "set", "needs": ["a"], "with": {"n": "${{ steps.a.output.n * 10 }}"}},
    ]
    workflow, lock = await create(client, {"name": "Edits", "steps": steps}), asyncio.Lock()

    async def play() -> None:
        execution_id = await start(client, workflow, breakpoints=["b"])
        await reached(client, execution_id, "PAUSED")
        url = f"{PATH}/{execution_id}"
        edited, resumed = await press(
            client.put(f"{url}/steps/a/output", json={"output": {"n": 2}}), colleague.post(f"{url}/resume", json={})
        )
        assert resumed.status_code == 202
        assert edited.status_code in {202, 409}, edited.text
        detail = await ended(client, execution_id)
        assert detail["status"] == "COMPLETED"
        applied = await happened(database, lock, execution_id, "step_edited") != []
        assert detail["output"] == {"n": 20 if applied else 10}
        async with lock:
            noted = await audited(database, execution_id)
        assert ("execution.edit_requested" in noted) is (edited.status_code == 202)
        assert "execution.resume_requested" in noted

    await rounds(play)
