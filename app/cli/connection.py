"""A server to talk to: its address, and a token for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from app.cli.client import LOOPBACK, Client, demand_server
from app.cli.failures import CommandFailed, report
from app.cli.options import Access
from app.logs import configure_logs

TOKEN_SECONDS = 86_400.0
REFUSED: Final = 2
INTERRUPTED: Final = 130


@asynccontextmanager
async def connected(access: Access) -> AsyncIterator[Client]:
    """A client of the server inside the block. Raises CommandFailed if there is none, or no token for it."""
    server, token = await _completed(access)
    async with Client(server, token) as client:
        yield client


def carry_out(work: Callable[[Client], Awaitable[int]], access: Access) -> int:
    """Do the work with a client. Its exit status; REFUSED, said on stderr, when it raises."""
    configure_logs("human", "warning")

    async def with_client() -> int:
        async with connected(access) as client:
            return await work(client)

    try:
        return asyncio.run(with_client())
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - 1 is kept for what happened to a run
        report(error)
        return REFUSED


async def _completed(access: Access) -> tuple[str, str]:
    """The URL and the token, with what is usual for what is not given."""
    if access.server and access.token:
        return access.server, access.token
    # Loading this takes a second, which is spent only where something of this machine is needed.
    from app.cli.deployment import issue_token, load_settings

    settings = load_settings(data_dir=access.data_dir)
    server = access.server or f"http://127.0.0.1:{settings.port}"
    if access.token:
        return server, access.token
    if urlsplit(server).hostname not in LOOPBACK:
        raise CommandFailed(f"{server} is another machine: give a token of it with --token or STEPSTREAM_TOKEN")
    await demand_server(server)
    return server, await issue_token(settings, access.data_dir, TOKEN_SECONDS)
