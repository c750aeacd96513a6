"""Worker leases in Postgres: one row per process incarnation, on a connection of its own.

A lease is judged by the database's clock alone. The row is the lease: whoever takes a worker's executions over deletes
its row in the same transaction, so a late renewal that still finds its row has lost nothing.
"""

import os
import socket
from pathlib import Path

import psutil

from app.db.link import Connect, Link

REGISTER = """
INSERT INTO workers (id, host, pid, incarnation, lease_until)
VALUES ($1, $2, $3, $4, clock_timestamp() + $5 * interval '1 second')
ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until"""

RENEW = """
UPDATE workers SET lease_until = clock_timestamp() + $2 * interval '1 second' WHERE id = $1 RETURNING id"""

NEIGHBOURS = "SELECT id, pid, incarnation FROM workers WHERE host = $1 AND id <> $2"

RESCUE = """
WITH dead AS (
  SELECT id FROM workers WHERE id <> $1 AND (lease_until < clock_timestamp() OR id = ANY($2::text[]))
   ORDER BY id FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM workers w USING dead WHERE w.id = dead.id
), freed AS (
  UPDATE executions e SET owner = NULL, recoveries = e.recoveries + 1 FROM dead WHERE e.owner = dead.id RETURNING e.id
)
SELECT count(*) AS freed FROM freed"""

RETIRE = """
WITH gone AS (DELETE FROM workers WHERE id = $1),
freed AS (UPDATE executions SET owner = NULL WHERE owner = $1 RETURNING id)
SELECT count(*) AS freed, (SELECT pg_notify('stepstream_work', '')) AS rung FROM freed"""


class Workers:
    """Implements `app.engine.ports.WorkerRegistry`."""

    def __init__(self, connect: Connect) -> None:
        self._leases = Link(connect)
        self._sweeps = Link(connect)
        self._host = host_identity()

    async def close(self) -> None:
        await self._leases.close()
        await self._sweeps.close()

    async def register(self, worker_id: str, ttl: float) -> None:
        pid = os.getpid()
        await self._leases.fetch(REGISTER, worker_id, self._host, pid, incarnation(pid) or "", ttl)

    async def renew(self, worker_id: str, ttl: float) -> bool:
        return bool(await self._leases.fetch(RENEW, worker_id, ttl))

    async def rescue(self, worker_id: str) -> int:
        neighbours = await self._sweeps.fetch(NEIGHBOURS, self._host, worker_id)
        known_dead = [row["id"] for row in neighbours if incarnation(row["pid"]) != row["incarnation"]]
        rows = await self._sweeps.fetch(RESCUE, worker_id, known_dead)
        return int(rows[0]["freed"])

    async def retire(self, worker_id: str) -> None:
        await self._leases.fetch(RETIRE, worker_id)


def host_identity() -> str:
    """Names the set of processes that see each other's pids: the boot of the machine and the pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return f"{socket.gethostname()}/{psutil.boot_time():.0f}"
    return f"{boot}/{namespace}"


def incarnation(pid: int) -> str | None:
    """Tells a process from another one that got its pid later; None if there is no such process."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{process.create_time():.2f}"
    except psutil.Error:
        return None
