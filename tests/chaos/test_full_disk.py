"""Real disks that really fill up under a real `up`: opted in, because making them takes root.

Nothing that was answered with 201 is lost, the server says what is the matter, and when there is space again it goes on
by itself: `up` is not restarted.
"""

import asyncio
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.embedded import EmbeddedPostgres
from tests.chaos.adding import adding
from tests.cli.processes import Process, done, installation, postmaster, stepstream

pytestmark = [
    pytest.mark.disk,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk"),
]

ADDING = adding(nap="1s")
ROOM = 200 << 10
"""What a full disk has left: less than a page for each relation."""


class Disk:
    """A small disk of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def free(self) -> int:
        return shutil.disk_usage(self.path).free

    def fill(self) -> None:
        with (self.path / "filler").open("wb") as file:
            for _ in range(0, max(self.free - ROOM, 0), 1 << 16):
                file.write(bytes(1 << 16))

    def empty(self) -> None:
        (self.path / "filler").unlink()


@contextmanager
def disk_for(directory: Path, megabytes: int) -> Iterator[Disk]:
    """Put a directory and what is in it on a small disk."""
    owner, place = directory.stat(), Path(tempfile.mkdtemp(prefix="stepstream-disk-"))
    options = f"size={megabytes}m,mode=700,uid={owner.st_uid},gid={owner.st_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    place.chmod(0o755)
    try:
        subprocess.run(["cp", "-a", str(directory), str(place / "moved")], check=True)
        shutil.rmtree(directory)
        directory.symlink_to(place / "moved")
        yield Disk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


class Client:
    """Starts executions, insists until each is accepted, and remembers which were."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.ids: dict[int, str] = {}
        self.refusals: set[str] = set()

    async def start(self, number: int) -> bool:
        body = {"workflow_id": "wf_adding", "input": number}
        answer = await self.http.post("/api/v1/executions", json=body, headers={"Idempotency-Key": f"run-{number}"})
        if answer.status_code != 201:
            assert answer.status_code == 503, answer.text
            self.refusals.add(answer.json()["code"])
            return False
        self.ids[number] = answer.json()["id"]
        return True

    async def insist(self, number: int) -> None:
        while not await self.start(number):
            await asyncio.sleep(0)

    async def ready(self) -> tuple[int, str]:
        answer = await self.http.get("/health/ready")
        return answer.status_code, answer.json()["status"]

    async def until(self, condition: Callable[[], Any], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not await condition():
            assert time.monotonic() < end
            await asyncio.sleep(0)

    async def all_right(self) -> None:
        for number, execution_id in self.ids.items():
            path, headers = f"/api/v1/executions/{execution_id}", {"Prefer": "wait=60"}
            record = (await self.http.get(path, headers=headers)).json()
            assert (record["status"], record["output"]) == ("COMPLETED", number + 2), record


@asynccontextmanager
async def serving(data_dir: Path) -> AsyncIterator[tuple[Process, Client]]:
    async with stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
        url = await process.ready()
        token = (await done("token", "--data-dir", data_dir))[1].strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=70) as http:
            (await http.post("/api/v1/workflows", json=ADDING)).raise_for_status()
            yield process, Client(http)
        assert await process.stops() == 0


@asynccontextmanager
async def with_small_disk(part: str, megabytes: int) -> AsyncIterator[tuple[Path, Disk]]:
    """An installation with this part of its cluster on a small disk."""
    async with installation() as data_dir:
        assert (await done("migrate", "--data-dir", data_dir))[0] == 0
        with disk_for(data_dir / "postgres" / part, megabytes) as disk:
            yield data_dir, disk
            await asyncio.to_thread(EmbeddedPostgres(data_dir).stop_if_last)


async def test_a_full_disk_refuses_new_runs_keeps_the_others_and_is_no_reason_to_restart() -> None:
    async with with_small_disk("base", 120) as (data_dir, disk), serving(data_dir) as (process, client):
        before = postmaster(data_dir)
        await asyncio.gather(*(client.insist(number) for number in range(20)))
        disk.fill()
        assert await client.ready() == (503, "storage_full")

        async def refused() -> bool:
            await client.start(len(client.ids))
            return "storage_full" in client.refusals

        await client.until(refused, 30)
        assert await client.ready() == (503, "storage_full")
        disk.empty()

        async def accepted() -> bool:
            return await client.start(len(client.ids))

        await client.until(accepted, 30)

        async def ready() -> bool:
            return await client.ready() == (200, "ok")

        await client.until(ready, 10)
        await client.all_right()
        assert postmaster(data_dir) == before
        assert "hardly any disk space is left" in process.text
        assert "there is disk space again" in process.text


async def test_postgres_that_stops_for_want_of_space_is_started_again_until_it_stays() -> None:
    """The write-ahead log has no room for its next segment: Postgres panics, and cannot recover either."""
    async with with_small_disk("pg_wal", 100) as (data_dir, disk), serving(data_dir) as (process, client):
        await asyncio.gather(*(client.insist(number) for number in range(20)))
        disk.fill()

        async def down() -> bool:
            big = {"workflow_id": "wf_adding", "input": secrets.token_hex(400_000)}
            await client.http.post("/api/v1/executions", json=big)
            return "postgres does not start" in process.text

        await client.until(down, 120)
        assert "No space left on device" in process.text
        assert "The disk is full. Free some space" in process.text
        assert await client.ready() == (503, "storage_full")
        assert (await client.http.get("/health/live")).status_code == 200
        disk.empty()

        async def ready() -> bool:
            return await client.ready() == (200, "ok")

        await client.until(ready, 45)
        await client.insist(len(client.ids))
        await client.all_right()
