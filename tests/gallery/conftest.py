"""The gallery runs on a whole server; each test has an organisation and an outside world of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from app.auth.permissions import Role
from tests.api.conftest import client, database, live, organization, owner
from tests.api.live import Organization
from tests.gallery.desk import Desk
from tests.gallery.world import World, a_world

__all__ = ["client", "database", "live", "organization", "owner"]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as running:
        yield running


@pytest.fixture
def desk(client, world: World) -> Desk:
    """That of the organisation's owner, who starts things."""
    return Desk(client, world)


@pytest.fixture
async def colleague(organization: Organization, world: World) -> AsyncIterator[Callable[[], Awaitable[Desk]]]:
    """Makes another member of the organisation with each call."""
    async with AsyncExitStack() as stack:

        async def another() -> Desk:
            member = await organization.member(Role.MEMBER)
            return Desk(await stack.enter_async_context(member.http()), world)

        yield another
