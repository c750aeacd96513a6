"""Hands back to the queue what dead workers owned. It never executes: recovery enters by the same claim as all else."""

import structlog

from app.crashpoints import crashpoint
from app.engine.leases import Leases
from app.engine.ports import WorkerRegistry
from app.engine.service import Service

log = structlog.get_logger("rescuer")


class Rescuer:
    """Sweeps for expired leases. Every process runs one; the sweep locks, so they never collide."""

    def __init__(self, registry: WorkerRegistry, leases: Leases, wake_claimer: Service, interval: float) -> None:
        self._registry = registry
        self._leases = leases
        self._claimer = wake_claimer
        self.service = Service("rescuer", self._sweep, interval)

    async def _sweep(self) -> None:
        if not self._leases.trusted:
            return
        rescued = await self._registry.rescue(self._leases.worker_id, expired=self._leases.steady)
        if rescued:
            crashpoint("in_rescue")
            log.warning("executions_rescued", count=rescued)
            self._claimer.wake()
