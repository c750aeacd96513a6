"""A serving `up` with workflows to operate on, for tests of commands."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx

from tests.cli.processes import SECONDS, done

OFFER = {
    "id": "wf_offer",
    "name": "Offer",
    "steps": [
        {"id": "find", "name": "Find leads", "type": "set", "with": {"city": "${{ input.city }}"}},
        {"id": "paid", "type": "wait_for_signal", "needs": ["find"], "with": {"signal": "paid"}},
        {
            "id": "confirm",
            "type": "approval",
            "needs": ["paid"],
            "with": {
                "title": "Send the [red]offer[/red]?",
                "self_approval": True,
                "form": {"type": "object", "required": ["limit"]},
            },
        },
        {
            "id": "check",
            "type": "fail",
            "needs": ["confirm"],
            "if": "${{ steps.confirm.output.data.limit > 10 }}",
            "with": {"message": "the limit is too high"},
        },
    ],
    "output": {"city": "${{ steps.find.output.city }}", "paid": "${{ steps.paid.output.payload }}"},
}
WAITING = {"id": "wf_waiting", "name": "Waiting", "steps": [OFFER["steps"][1] | {"needs": []}]}
CITY = {
    "id": "wf_city",
    "name": "City",
    "steps": [
        {"id": "find", "type": "set", "with": {"city": "${{ input.city }}"}},
        {
            "id": "check",
            "type": "fail",
            "needs": ["find"],
            "if": "${{ steps.find.output.city == 'Atlantis' }}",
            "with": {"message": "it sank"},
        },
    ],
    "output": "${{ steps.find.output.city }}",
}


@dataclass
class Up:
    """A serving `up` with the workflows of this module."""

    http: httpx.AsyncClient
    environment: dict[str, str]

    async def executions(self, *arguments: str) -> tuple[int, str, str]:
        return await done("executions", *arguments, **self.environment)

    async def approvals(self, *arguments: str) -> tuple[int, str, str]:
        return await done("approvals", *arguments, **self.environment)

    async def start(self, workflow_id: str, city: str = "Berlin", label: str = "none") -> str:
        body = {"input": {"city": city}, "labels": {"test": label}}
        started = await self.http.post(f"/workflows/{workflow_id}/execute", json=body)
        return str(started.raise_for_status().json()["id"])

    async def ended(self, workflow_id: str, city: str, label: str = "none") -> str:
        execution_id = await self.start(workflow_id, city, label)
        await self.record(execution_id, ended=True)
        return execution_id

    async def record(self, execution_id: str, *, ended: bool = False) -> dict[str, Any]:
        headers = {"Prefer": "wait=60"} if ended else {}
        found = await self.http.get(f"/executions/{execution_id}", headers=headers)
        return dict(found.raise_for_status().json())

    async def until(self, execution_id: str, kind: str) -> dict[str, Any]:
        """Wait for an event of an execution; its data."""
        path, headers = f"/executions/{execution_id}/events", {"Accept": "text/event-stream"}
        async with asyncio.timeout(SECONDS), self.http.stream("GET", path, headers=headers) as lines:
            async for line in lines.aiter_lines():
                if line.startswith("data: ") and (event := json.loads(line[6:]))["type"] == kind:
                    return dict(event["data"])
        raise AssertionError(f"{execution_id} ended without {kind}")

    async def to_approve(self, **start: str) -> tuple[str, str]:
        """An offer that waits for approval, and the id of the approval."""
        execution_id = await self.start("wf_offer", **start)
        await self.http.post(f"/executions/{execution_id}/signal", json={"name": "paid", "payload": 7})
        return execution_id, (await self.until(execution_id, "approval_requested"))["approval_id"]
