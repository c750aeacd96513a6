"""Readiness tells the truth, and why."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.db.probe import Probe
from app.domain.errors import Unavailable
from tests.api.live import Live, live_server
from tests.database import Database


async def test_a_process_that_can_work_says_what_it_looked_at(live: Live) -> None:
    async with live.http() as http:
        for path in ("/health", "/health/ready"):
            ready = await http.get(path)
            assert (ready.status_code, ready.json()) == (
                200,
                {"status": "ok", "checks": {"database": "ok", "storage": "ok", "lease": "ok"}},
            )


async def test_a_nearly_full_disk_is_told_and_keeps_nobody_from_reading(database: Database, tmp_path: Path) -> None:
    full = live_server(database, tmp_path / "data", storage_full=lambda: True)
    async with full as server, server.http() as http:
        ready = await http.get("/health/ready")
        assert (ready.status_code, ready.json()["status"], ready.headers["retry-after"]) == (503, "storage_full", "1")
        assert (await http.get("/health/live")).status_code == 200
        member = await (await server.organization()).member()
        async with member.http() as signed_in:
            assert (await signed_in.get("/api/v1/workflows")).status_code == 200


class FullDisk:
    """A connection to a database whose disk is full."""

    async def execute(self, _sql: str) -> None:
        """Settings need no space."""

    async def prepare(self, _sql: str) -> None:
        raise asyncpg.DiskFullError("could not write block 1: No space left on device")

    def terminate(self) -> None:
        """Nobody is there."""


async def test_a_disk_that_takes_no_more_is_noticed_by_the_probe() -> None:
    async def connect() -> Any:
        return FullDisk()

    probe = Probe(connect)
    for _ in range(2):
        with pytest.raises(Unavailable) as full:
            await probe.look()
        assert full.value.error_code == "storage_full"
    await probe.close()
