"""A client that keeps books: what it asked, and whether it knows what came of it."""

import asyncio
import random
import time
from typing import Any

import httpx

from tests.chaos.cluster import App, Cluster
from tests.chaos.journal import Journal, pause

AGAIN_SECONDS = 0.1


class Client:
    """Asks any of the apps that are up, or `only` one. Outcomes: `ok`, `fail` (refused, nothing done) and `unknown`."""

    def __init__(self, cluster: Cluster, journal: Journal, chance: random.Random, *, only: App | None = None) -> None:
        self._apps = cluster.apps if only is None else [only]
        self._journal = journal
        self._chance = chance
        self._http = cluster.http()

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(self, method: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response | None:
        """Ask once; None if there was no answer, or one that leaves open what was done."""
        app = await self.up()
        headers = options.pop("headers", {}) | ({} if key is None else {"Idempotency-Key": key})
        sent_at = time.time()
        try:
            answer = await self._http.request(method, f"{app.api}{path}", headers=headers, **options)
        except httpx.TransportError as error:
            self._note(method, path, key, sent_at, "unknown", reason=type(error).__name__)
            return None
        known = answer.status_code < 500
        outcome = "ok" if answer.is_success else "fail" if known else "unknown"
        body = answer.json() if answer.is_success and method == "POST" else {}
        self._note(method, path, key, sent_at, outcome, status=answer.status_code, id=body.get("id"))
        assert known or answer.status_code == 503, answer.text
        return answer if known else None

    async def insist(self, method: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        """Ask until there is an answer that says what was done."""
        while (answer := await self.ask(method, path, key=key, **options)) is None:
            await pause(AGAIN_SECONDS)
        return answer

    async def start(self, workflow_id: str, value: Any, key: str, **options: Any) -> str:
        """An execution of the client's; however often it has to be asked for, it is one."""
        body = {"workflow_id": workflow_id, "input": value, **options}
        answer = await self.insist("POST", "/executions", key=key, json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def ended(self, execution_id: str) -> dict[str, Any]:
        """Wait for the end of an execution; its record.

        Who waits for a word to go on gets it: a breakpoint, or a pause whose answer was lost and that came late.
        """
        while True:
            answer = await self.insist("GET", f"/executions/{execution_id}", headers={"Prefer": "wait=20"})
            assert answer.status_code == 200, answer.text
            if (record := dict(answer.json()))["completed_at"]:
                return record
            if record["status"] == "PAUSED":
                await self.insist("PATCH", f"/executions/{execution_id}/budget", json={"max_steps": 1_000})
                await self.insist("POST", f"/executions/{execution_id}/resume", json={})

    async def up(self) -> App:
        """One of the apps that are up."""
        while not (apps := [app for app in self._apps if app.up.is_set()]):
            await asyncio.wait(
                [asyncio.ensure_future(app.up.wait()) for app in self._apps],
                return_when=asyncio.FIRST_COMPLETED,
            )
        return self._chance.choice(apps)

    def _note(self, method: str, path: str, key: str | None, sent_at: float, outcome: str, **more: Any) -> None:
        if method != "GET":
            self._journal.write(op=f"{method} {path}", key=key, sent_at=sent_at, outcome=outcome, **more)
