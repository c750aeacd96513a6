"""An operator's desk: publishes the gallery's workflows, starts them, looks at them and steps in, all over REST."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.gallery.world import World

GALLERY = Path(__file__).parent
API = "/api/v1"
YAML = {"Content-Type": "application/yaml"}


class Desk:
    """One signed-in person and the world that the workflows reach."""

    def __init__(self, http: httpx.AsyncClient, world: World) -> None:
        self.http = http
        self.world = world

    async def publish(self, name: str, **changes: str) -> str:
        """Save a workflow of the gallery under its own id.

        `changes` are other durations for steps, so that a test need not wait as long as people do: `arrival="50ms"`
        rewrites the first `timeout`, `deadline`, `interval` or `duration` behind `id: arrival`.
        """
        answer = await self.http.post(f"{API}/workflows", content=self._text(name, changes), headers=YAML)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def publish_again(self, name: str, workflow_id: str, **changes: str) -> str:
        """Make another version of it, which new executions use; its id."""
        content, headers = self._text(name, changes), {**YAML, "If-Match": "*"}
        answer = await self.http.put(f"{API}/workflows/{workflow_id}", content=content, headers=headers)
        assert answer.status_code == 200, answer.text
        return workflow_id

    def _text(self, name: str, changes: dict[str, str]) -> str:
        text = (GALLERY / f"{name}.yaml").read_text()
        text = re.sub(r"https://([a-z]+)\.example", rf"{self.world.url}/\1", text)
        for step, duration in changes.items():
            times = rf"(id: {step}\b.*?\b(?:timeout|deadline|interval|duration): )[^\s,}}]+"
            text, count = re.subn(times, rf"\g<1>{duration}", text, count=1, flags=re.DOTALL)
            assert count, f"{name} has no {step} with a duration"
        return text

    async def start(self, workflow_id: str, value: Any, **options: Any) -> str:
        body = {"workflow_id": workflow_id, "input": value, **options}
        answer = await self.http.post(f"{API}/executions", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def run(self, workflow_id: str, value: Any, **options: Any) -> dict[str, Any]:
        """Start, and wait for the end."""
        return await self.ended(await self.start(workflow_id, value, **options))

    async def ended(self, execution_id: str) -> dict[str, Any]:
        detail = await self.get(execution_id, headers={"Prefer": "wait=30"})
        assert detail["completed_at"], (detail["status"], await self.explain(execution_id))
        return detail

    async def get(self, execution_id: str, *below: str, **options: Any) -> dict[str, Any]:
        answer = await self.http.get("/".join([API, "executions", execution_id, *below]), **options)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def until(self, execution_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The detail as soon as something is true of it; the test's timeout ends a wait that is in vain."""
        while True:
            detail = await self.get(execution_id)
            if holds(detail):
                return detail

    async def waiting(self, execution_id: str, *steps: str) -> dict[str, Any]:
        """The explanation as soon as exactly these steps wait (none: the run itself), and nothing else is under way."""

        def holds(detail: dict[str, Any]) -> bool:
            waiting = {step["id"] for step in detail["steps"] if step["status"] == "WAITING"}
            return detail["status"] == "WAITING" and waiting == set(steps)

        await self.until(execution_id, holds)
        return await self.explain(execution_id)

    async def explained(self, execution_id: str, code: str) -> dict[str, Any]:
        """The explanation as soon as it has a code."""
        while True:
            found = await self.explain(execution_id)
            if found["code"] == code:
                return found

    async def explain(self, execution_id: str) -> dict[str, Any]:
        return await self.get(execution_id, "explain")

    async def graph(self, execution_id: str) -> tuple[dict[str, str], set[str]]:
        """Statuses by step, and the edges taken, as `route.hot>pitch`."""
        graph = await self.get(execution_id, "graph")
        taken = {
            f"{edge['from']}{'.' + edge['port'] if edge['port'] else ''}>{edge['to']}"
            for edge in graph["edges"]
            if edge["taken"]
        }
        return {node["id"]: node["status"] for node in graph["nodes"]}, taken

    async def spans(self, execution_id: str, step_id: str | None) -> list[tuple[str, str | None]]:
        """Kind and reason of the timeline's spans of one step, or (None) of the run itself."""
        timeline = await self.get(execution_id, "timeline")
        return [(span["kind"], span["reason"]) for span in timeline["spans"] if span["step_id"] == step_id]

    async def event(self, execution_id: str, kind: str) -> dict[str, Any]:
        """The data of the first event of a type."""
        events = (await self.get(execution_id, "events", params={"limit": 1000}))["data"]
        return dict(next(event["data"] for event in events if event["type"] == kind))

    async def ask(self, execution_id: str, wish: str, **body: Any) -> dict[str, Any]:
        answer = await self.http.post(f"{API}/executions/{execution_id}/{wish}", json=body)
        assert answer.is_success, answer.text
        return dict(answer.json())

    async def retried(self, execution_id: str, **body: Any) -> dict[str, Any]:
        """Retry an execution, and wait for the end of the new one."""
        return await self.ended((await self.ask(execution_id, "retry", **body))["id"])

    async def approval(self, execution_id: str) -> dict[str, Any]:
        """The one approval that an execution waits for."""
        answer = await self.http.get(f"{API}/approvals", params={"execution_id": execution_id})
        [found] = answer.json()["data"]
        return dict(found)

    async def decide(self, approval_id: str, decision: str, **body: Any) -> httpx.Response:
        return await self.http.post(f"{API}/approvals/{approval_id}/decide", json={"decision": decision, **body})


def statuses(detail: dict[str, Any]) -> dict[str, str]:
    """Statuses by step."""
    return {step["id"]: step["status"] for step in detail["steps"]}


def reused(detail: dict[str, Any]) -> set[str]:
    """The steps that were carried over from an earlier run."""
    return {step["id"] for step in detail["steps"] if step["reused_from"]}


def step_of(detail: dict[str, Any], step_id: str) -> dict[str, Any]:
    return next(step for step in detail["steps"] if step["id"] == step_id)
