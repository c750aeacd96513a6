"""Subscribers that come back: each sees every event of its execution once, in order, whatever breaks meanwhile."""

import asyncio
import json
from typing import Any

import httpx

from app.domain.events import TERMINAL_TYPES
from tests.chaos.client import Client
from tests.chaos.cluster import Cluster
from tests.chaos.journal import pause
from tests.database import Database


class Watchers:
    """Follows executions by SSE, resuming by `Last-Event-ID`; `seen` are their events by seq."""

    def __init__(self, cluster: Cluster, client: Client) -> None:
        self._client = client
        self._http = cluster.http()
        self.following: dict[str, asyncio.Task[None]] = {}
        self.seen: dict[str, dict[int, dict[str, Any]]] = {}
        self.reconnects = 0

    def watch(self, execution_id: str) -> None:
        self.seen[execution_id] = {}
        self.following[execution_id] = asyncio.create_task(self._follow(execution_id), name=f"watch {execution_id}")

    async def close(self) -> None:
        for task in self.following.values():
            task.cancel()
        await asyncio.gather(*self.following.values(), return_exceptions=True)
        await self._http.aclose()

    async def check(self, tables: Database) -> None:
        """All saw the end, and nothing but what is recorded."""
        await asyncio.gather(*self.following.values())
        rows = await tables.fetch(
            "SELECT execution_id, seq, type, data FROM execution_events WHERE execution_id = ANY($1) ORDER BY seq",
            list(self.seen),
        )
        recorded: dict[str, dict[int, tuple[str, Any]]] = {execution_id: {} for execution_id in self.seen}
        for row in rows:
            recorded[row["execution_id"]][row["seq"]] = (row["type"], json.loads(row["data"]))
        for execution_id, events in self.seen.items():
            told = {seq: (event["type"], event["data"]) for seq, event in events.items()}
            assert told == recorded[execution_id], execution_id

    async def _follow(self, execution_id: str) -> None:
        seen = self.seen[execution_id]
        while not (seen and seen[len(seen)]["type"] in TERMINAL_TYPES):
            try:
                await self._listen(execution_id, seen)
            except httpx.TransportError:
                self.reconnects += 1
            await pause(0.05)

    async def _listen(self, execution_id: str, seen: dict[int, dict[str, Any]]) -> None:
        app = await self._client.up()
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(len(seen))}
        async with self._http.stream("GET", f"{app.api}/executions/{execution_id}/events", headers=headers) as answer:
            assert answer.status_code in (200, 503), answer.status_code
            seq = 0
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    seq = int(line[4:])
                elif line.startswith("data: ") and seq:
                    assert seq == len(seen) + 1, (execution_id, seq, len(seen))
                    seen[seq], seq = json.loads(line[6:]), 0
