"""One server for all bad requests, apart from the other tests: nothing on it changes but by them."""

from collections.abc import AsyncIterator

import pytest

from tests.api.live import live_server
from tests.bad_input.canaries import canaries
from tests.bad_input.world import World, make_world
from tests.database import Server


@pytest.fixture(scope="package")
async def world(server: Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A server of its own, which could reach the canaries but for its address rule."""
    async with canaries() as birds, server.database(template) as database:
        ports = [80, 443, birds.port, birds.port6]
        settings = {"egress_allow_cidrs": [], "egress_ports": ports}
        async with live_server(database, tmp_path_factory.mktemp("bad"), **settings) as live:
            yield await make_world(live, birds)
        assert birds.calls == []
