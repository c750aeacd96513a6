"""Whether this process can do its work, and what keeps it from doing so."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app import metrics
from app.db.errors import STORAGE_FULL, translated
from app.domain.errors import Unavailable

Check = Literal["ok", "failing"]


@dataclass(frozen=True, slots=True)
class Readiness:
    """`reason` is a problem code when not ready."""

    ready: bool
    reason: str | None
    checks: dict[str, Check]


class Health:
    """Looks at the storage, the database, the lease and whether the process is stopping."""

    def __init__(
        self,
        engine: AsyncEngine,
        queue_depth: Callable[[], Awaitable[tuple[int, float]]],
        lease_trusted: Callable[[], bool],
        draining: Callable[[], bool],
        storage_full: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._queue_depth = queue_depth
        self._lease_trusted = lease_trusted
        self._draining = draining
        self._storage_full = storage_full

    async def readiness(self) -> Readiness:
        """Ask the database something, so that a dead one is noticed within its timeouts."""
        if self._draining():
            return Readiness(ready=False, reason="draining", checks={})
        if self._storage_full():
            # Before the database is asked: for want of space it may be down, and then this is the reason to tell.
            return Readiness(ready=False, reason=STORAGE_FULL, checks={"storage": "failing"})
        try:
            with translated():
                async with self._engine.connect() as connection:
                    await connection.execute(text("SELECT 1"))
        except Unavailable as error:
            return Readiness(ready=False, reason=error.error_code, checks={"storage": "ok", "database": "failing"})
        lease: Check = "ok" if self._lease_trusted() else "failing"
        reason = None if lease == "ok" else "database_unavailable"
        return Readiness(ready=lease == "ok", reason=reason, checks={"storage": "ok", "database": "ok", "lease": lease})

    async def measure_queue(self) -> None:
        """Refresh the gauges that only the database knows; they keep their last values while it is away."""
        try:
            depth, oldest = await self._queue_depth()
        except Unavailable:
            return
        metrics.queue_depth.set(depth)
        metrics.queue_oldest_age.set(oldest)
