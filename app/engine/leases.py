"""The lease of this process: one row, renewed on its own connection, whatever the number of executions it owns.

States. *Trusted*: renewed recently enough that no other process can have taken anything over; effects may start.
*Doubtful*: the renewal is late; nothing new starts, nothing is given up, because the lease may still be ours. *Lost*:
the row is gone, a rescuer has handed everything on; the process gives up all it drove and begins again as a new worker.

Trust ends `margin` before the lease does: trusted_until = (monotonic time before the renewal was sent) + ttl - margin.
"""

import asyncio
from collections.abc import Callable

import structlog

from app import clock, metrics
from app.engine.ports import WorkerRegistry
from app.engine.service import Service

log = structlog.get_logger("lease")


class Leases:
    """Keeps the lease. `on_lost` is called once for each lost worker id, before a new one is registered."""

    def __init__(self, registry: WorkerRegistry, ttl: float, on_lost: Callable[[str], None]) -> None:
        self._registry = registry
        self._ttl = ttl
        self._margin = min(2.0, ttl / 5)
        self._on_lost = on_lost
        self._trusted_until = float("-inf")
        self._changed = asyncio.Event()
        self.worker_id = clock.new_id("worker")
        self._service = Service("lease", self._renew, ttl / 3)

    async def start(self) -> None:
        """Register; on return this process may claim."""
        await self._register()
        self._service.start()

    async def stop(self) -> None:
        """Give everything back at once, so that other processes go on within a moment."""
        await self._service.stop()
        await self._registry.retire(self.worker_id)

    @property
    def trusted(self) -> bool:
        return clock.monotonic() < self._trusted_until

    async def until_trusted(self, worker_id: str) -> bool:
        """Wait while the lease is doubtful; False if `worker_id` has lost it."""
        while worker_id == self.worker_id and not self.trusted:
            self._changed.clear()
            await self._changed.wait()
        return worker_id == self.worker_id

    async def _register(self) -> None:
        before = clock.monotonic()
        await self._registry.register(self.worker_id, self._ttl)
        self._trust(before)

    async def _renew(self) -> None:
        before = clock.monotonic()
        if await self._registry.renew(self.worker_id, self._ttl):
            self._trust(before)
            return
        lost, self.worker_id = self.worker_id, clock.new_id("worker")
        self._trusted_until = float("-inf")
        metrics.leases_lost.inc()
        log.error("lease_lost", worker_id=lost, meaning="another process took over what this one owned")
        self._changed.set()
        self._on_lost(lost)
        await self._register()

    def _trust(self, before: float) -> None:
        self._trusted_until = before + self._ttl - self._margin
        self._changed.set()
