"""The lease of this process: one row, renewed on its own connection, whatever the number of executions it owns.

States. *Trusted*: renewed recently enough that no other process can have taken anything over; effects may start.
*Doubtful*: the renewal is late; nothing new starts, nothing is given up, because the lease may still be ours. *Lost*:
the row is gone, a rescuer has handed everything on; the process gives up all it drove and begins again as a new worker.

Trust ends `margin` before the lease does: trusted_until = (monotonic time before the renewal was sent) + ttl - margin.
After a doubt everybody's lease may look expired, because all missed the same database: for one more ttl this process
does not judge others by theirs.
"""

import asyncio
from collections.abc import Callable

import structlog

from app import clock, metrics
from app.crashpoints import crashpoint
from app.domain.errors import Unavailable
from app.engine.ports import WorkerRegistry
from app.engine.service import Service

RENEWALS = 3
"""How often a lease is renewed in its time to live; none may take longer than until the next."""

log = structlog.get_logger("lease")


class Leases:
    """Keeps the lease. `on_lost` is called once for each lost worker id, before a new one is registered."""

    def __init__(self, registry: WorkerRegistry, ttl: float, on_lost: Callable[[str], object]) -> None:
        self._registry = registry
        self._ttl = ttl
        self._margin = min(2.0, ttl / 5)
        self._on_lost = on_lost
        self._registered = False
        self._trusted_until = float("-inf")
        self._steady_from = float("-inf")
        self._changed = asyncio.Event()
        self.worker_id = clock.new_id("worker")
        self._service = Service("lease", self._renew, ttl / RENEWALS)

    async def start(self) -> None:
        """Register; on return this process may claim."""
        await self._register()
        self._service.start()

    async def stop(self) -> None:
        """Give everything back at once, so that other processes go on within a moment."""
        await self._service.stop()
        self._trusted_until = float("-inf")
        try:
            await self._registry.retire(self.worker_id)
        except Unavailable as error:
            log.warning("lease_left_to_expire", worker_id=self.worker_id, reason=error.detail)

    @property
    def trusted(self) -> bool:
        return clock.monotonic() < self._trusted_until

    @property
    def steady(self) -> bool:
        """Trusted, and for a whole ttl since the last doubt: whoever is alive has had the time to renew, too."""
        return self.trusted and clock.monotonic() >= self._steady_from

    async def until_trusted(self, worker_id: str) -> bool:
        """Wait while the lease is doubtful; False if `worker_id` has lost it."""
        while worker_id == self.worker_id and not self.trusted:
            self._changed.clear()
            await self._changed.wait()
        return worker_id == self.worker_id

    async def _register(self) -> None:
        before = clock.monotonic()
        await self._registry.register(self.worker_id, self._ttl)
        self._registered = True
        self._trust(before)

    async def _renew(self) -> None:
        if not self._registered:
            await self._register()
            return
        before = clock.monotonic()
        renewed = await self._registry.renew(self.worker_id, self._ttl)
        crashpoint("in_heartbeat")
        if renewed:
            self._trust(before)
            return
        lost, self.worker_id = self.worker_id, clock.new_id("worker")
        self._registered, self._trusted_until = False, float("-inf")
        metrics.leases_lost.inc()
        log.error("lease_lost", worker_id=lost, meaning="another process took over what this one owned")
        self._changed.set()
        self._on_lost(lost)
        await self._register()

    def _trust(self, before: float) -> None:
        if float("-inf") < self._trusted_until < clock.monotonic():
            self._steady_from = clock.monotonic() + self._ttl
        self._trusted_until = before + self._ttl - self._margin
        self._changed.set()
