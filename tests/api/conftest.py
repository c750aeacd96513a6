"""One server for all API tests; each test has organisations of its own on it."""

from collections.abc import AsyncIterator

import httpx
import pytest

from app.auth.permissions import Role
from tests.api.live import Live, Member, Organization, live_server
from tests.database import Database, Server


@pytest.fixture(scope="session")
async def live(server: Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    """The server under test."""
    async with server.database(template) as database:
        async with live_server(database, tmp_path_factory.mktemp("live")) as running:
            yield running


@pytest.fixture
def database(live: Live) -> Database:
    """The database behind the server."""
    return live.database


@pytest.fixture
async def organization(live: Live) -> Organization:
    return await live.organization()


@pytest.fixture
async def owner(organization: Organization) -> Member:
    return await organization.member(Role.OWNER)


@pytest.fixture
async def client(owner: Member) -> AsyncIterator[httpx.AsyncClient]:
    """Signed in as the owner of the test's organisation."""
    async with owner.http() as signed_in:
        yield signed_in


@pytest.fixture
async def viewer_client(organization: Organization) -> AsyncIterator[httpx.AsyncClient]:
    """Signed in as somebody of the same organisation who may only look."""
    async with (await organization.member(Role.VIEWER)).http() as signed_in:
        yield signed_in


@pytest.fixture
async def other_client(live: Live) -> AsyncIterator[httpx.AsyncClient]:
    """Signed in as the owner of another organisation."""
    async with (await (await live.organization()).member(Role.OWNER)).http() as signed_in:
        yield signed_in


@pytest.fixture
async def anonymous(live: Live) -> AsyncIterator[httpx.AsyncClient]:
    """Not signed in."""
    async with live.http() as unsigned:
        yield unsigned
