"""What every test may ask for."""

from collections.abc import AsyncIterator

import pytest

from tests.database import Database, Server, session_server


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
