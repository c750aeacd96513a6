"""What every test may ask for."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.database import Database, Server, session_server


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a long chaos run is told: see tests/chaos."""
    chaos = parser.getgroup("chaos")
    chaos.addoption("--chaos-seed", type=int, default=time.time_ns() % 1_000_000, help="of a random one")
    chaos.addoption("--chaos-minutes", type=float, default=5.0, help="how long things break")
    chaos.addoption("--chaos-beside", metavar="=TREE", type=Path, help="another version for every other process")
    chaos.addoption("--chaos-result", help="a file for the numbers of the run, as JSON")


@pytest.fixture(scope="session")
async def server() -> AsyncIterator[Server]:
    """The Postgres server of this session."""
    async with session_server() as running:
        yield running


@pytest.fixture(scope="session")
async def template(server: Server) -> AsyncIterator[str]:
    """The name of a migrated database without rows, to clone."""
    async with server.template() as name:
        yield name


@pytest.fixture
async def database(server: Server, template: str) -> AsyncIterator[Database]:
    """A migrated database of the test's own."""
    async with server.database(template) as clone:
        yield clone
