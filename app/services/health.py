"""Whether this process can do its work, and what keeps it from doing so."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from app import metrics
from app.db.errors import STORAGE_FULL
from app.db.probe import Probe
from app.domain.errors import Unavailable

MEASURE_SECONDS = 2.0

Check = Literal["ok", "failing"]


@dataclass(frozen=True, slots=True)
class Readiness:
    """`reason` is a problem code when not ready."""

    ready: bool
    reason: str | None
    checks: dict[str, Check]


class Health:
    """Looks at the storage, the database, the lease and whether the process is stopping.

    `storage_full` says whether the disk of the embedded database, if it is that, is running out of space.
    """

    def __init__(
        self,
        probe: Probe,
        queue_depth: Callable[[], Awaitable[tuple[int, float]]],
        lease_trusted: Callable[[], bool],
        draining: Callable[[], bool],
        storage_full: Callable[[], bool],
    ) -> None:
        self._probe = probe
        self._queue_depth = queue_depth
        self._lease_trusted = lease_trusted
        self._draining = draining
        self._storage_full = storage_full

    async def readiness(self) -> Readiness:
        """Ask the database something, so that a dead, hung or full one is noticed within two seconds."""
        if self._draining():
            return Readiness(ready=False, reason="draining", checks={})
        if self._storage_full():
            # Before the database is asked: for want of space it may be down, and then this is the reason to tell.
            return Readiness(ready=False, reason=STORAGE_FULL, checks={"storage": "failing"})
        try:
            await self._probe.look()
        except Unavailable as error:
            failing = "storage" if error.error_code == STORAGE_FULL else "database"
            return Readiness(ready=False, reason=error.error_code, checks={failing: "failing"})
        lease: Check = "ok" if self._lease_trusted() else "failing"
        reason = None if lease == "ok" else "database_unavailable"
        return Readiness(ready=lease == "ok", reason=reason, checks={"database": "ok", "storage": "ok", "lease": lease})

    async def measure_queue(self) -> None:
        """Refresh the gauges that only the database knows; they keep their last values while it is away."""
        try:
            async with asyncio.timeout(MEASURE_SECONDS):
                depth, oldest = await self._queue_depth()
        except (Unavailable, TimeoutError):
            return
        metrics.queue_depth.set(depth)
        metrics.queue_oldest_age.set(oldest)
