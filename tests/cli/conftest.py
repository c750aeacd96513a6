"""One server for the tests of a module."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.cli.operator import CITY, OFFER, WAITING, Up
from tests.cli.processes import SECONDS, done, installation, stepstream


@pytest.fixture(scope="module")
async def up() -> AsyncIterator[Up]:
    async with installation() as data_dir, stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
        url = await process.ready()
        token = (await done("token", "--data-dir", data_dir))[1].strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=SECONDS) as http:
            for document in (OFFER, WAITING, CITY):
                (await http.post("/workflows", json=document)).raise_for_status()
            yield Up(http, {"STEPSTREAM_SERVER": url, "STEPSTREAM_TOKEN": token})
        assert await process.stops() == 0
