"""Whether the database answers, and has room: asked on a connection of its own, within seconds."""

import asyncio

from app.db.errors import answered_within
from app.db.link import Connect, Link

SECONDS = 2.0

_SETUP = "SET work_mem = '64kB'; SET jit = off"
_LOOK = "SELECT count(*) FROM generate_series(1, 10000)"
"""Does not fit into that memory, so a small file is written where the data is: a full disk refuses it."""


class Probe:
    """Looks at the database for everybody who asks at the same time."""

    def __init__(self, connect: Connect) -> None:
        self._link = Link(connect, _SETUP)
        self._look: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Raises Unavailable: `database_unavailable`, also after seconds of silence, or `storage_full`."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._ask(), name="probe")
            self._look.add_done_callback(_retrieved)
        await asyncio.shield(self._look)

    async def close(self) -> None:
        """Close the connection; a look under way ends."""
        await self._link.close()
        if self._look is not None:
            await asyncio.wait([self._look])

    async def _ask(self) -> None:
        async with answered_within(SECONDS):
            await self._link.fetch(_LOOK)


def _retrieved(look: "asyncio.Task[None]") -> None:
    """Whoever asked may be gone by now; what the task raised is then nobody's."""
    if not look.cancelled():
        look.exception()
