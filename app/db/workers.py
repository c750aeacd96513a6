"""Worker leases in Postgres: one row per process incarnation, on a connection of its own.

A lease is judged by the database's clock alone. The row is the lease: whoever takes a worker's executions over deletes
its row in the same transaction, so a late renewal that still finds its row has lost nothing.
"""

import os
import socket
from pathlib import Path

import psutil

from app.db.claim_sql import IS_READY
from app.db.errors import answered_within
from app.db.link import PIN_PLANS, Connect, Link
from app.engine.leases import RENEWALS

PROC = Path("/proc")
RETIRE_SECONDS = 5.0
"""A process that stops leaves its lease to expire rather than wait longer for a database that does not answer."""

REGISTER = """
INSERT INTO workers (id, host, pid, incarnation, lease_until)
VALUES ($1, $2, $3, $4, clock_timestamp() + $5 * interval '1 second')
ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until"""

RENEW = """
UPDATE workers SET lease_until = clock_timestamp() + $2 * interval '1 second' WHERE id = $1 RETURNING id"""

NEIGHBOURS = "SELECT id, pid, incarnation FROM workers WHERE host = $1 AND id <> $2"

RESCUE = f"""
WITH RECURSIVE dead AS (
  SELECT id FROM workers WHERE id <> $1 AND (id = ANY($2::text[]) OR ($3 AND lease_until < clock_timestamp()))
   ORDER BY id FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM workers w USING dead WHERE w.id = dead.id
), owners AS (
  (SELECT owner FROM executions WHERE owner IS NOT NULL ORDER BY owner LIMIT 1)
  UNION ALL
  SELECT (SELECT e.owner FROM executions e WHERE e.owner > o.owner ORDER BY e.owner LIMIT 1)
    FROM owners o WHERE o.owner IS NOT NULL
), lost AS (
  SELECT id FROM dead
  UNION ALL
  SELECT o.owner FROM owners o WHERE o.owner IS NOT NULL AND NOT EXISTS (SELECT FROM workers w WHERE w.id = o.owner)
), locked AS (
  SELECT e.id FROM executions e WHERE e.owner IN (SELECT id FROM lost) ORDER BY e.id FOR NO KEY UPDATE
), freed AS (
  UPDATE executions e SET owner = NULL, ready = {IS_READY}, recoveries = e.recoveries + 1
    FROM locked WHERE e.id = locked.id RETURNING e.id
)
SELECT count(*) AS freed FROM freed"""  # noqa: S608 - of constants
"""Besides the dead it looks for owners that have no lease at all: a claim may have been committed by a worker in the
moment its row was deleted. Rows are locked in id order, as the recorder does."""

RETIRE = f"""
WITH gone AS (
  DELETE FROM workers WHERE id = $1
), locked AS (
  SELECT id FROM executions WHERE owner = $1 ORDER BY id FOR NO KEY UPDATE
), freed AS (
  UPDATE executions e SET owner = NULL, ready = {IS_READY} FROM locked WHERE e.id = locked.id RETURNING e.id
)
SELECT count(*) AS freed, (SELECT pg_notify('stepstream_work', '')) AS rung FROM freed"""  # noqa: S608 - of constants


class Workers:
    """Implements `app.engine.ports.WorkerRegistry`."""

    def __init__(self, connect: Connect) -> None:
        self._leases = Link(connect)
        self._sweeps = Link(connect, PIN_PLANS)
        self._host = host_identity()

    async def close(self) -> None:
        await self._leases.close()
        await self._sweeps.close()

    async def register(self, worker_id: str, ttl: float) -> None:
        pid = os.getpid()
        await self._leases.fetch(REGISTER, worker_id, self._host, pid, incarnation(pid) or "", ttl)

    async def renew(self, worker_id: str, ttl: float) -> bool:
        # A connection that died in silence must not eat up the lease: long before, it is given up for a new one.
        async with answered_within(ttl / RENEWALS):
            return bool(await self._leases.fetch(RENEW, worker_id, ttl))

    async def rescue(self, worker_id: str, *, expired: bool) -> int:
        neighbours = await self._sweeps.fetch(NEIGHBOURS, self._host, worker_id)
        known_dead = [row["id"] for row in neighbours if incarnation(row["pid"]) != row["incarnation"]]
        rows = await self._sweeps.fetch(RESCUE, worker_id, known_dead, expired)
        return int(rows[0]["freed"])

    async def retire(self, worker_id: str) -> None:
        async with answered_within(RETIRE_SECONDS):
            await self._leases.fetch(RETIRE, worker_id)


def host_identity() -> str:
    """Names the set of processes that see each other's pids: the boot of the machine and the pid namespace."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = (PROC / "self/ns/pid").readlink()
    except OSError:
        return f"{socket.gethostname()}/{psutil.boot_time():.0f}"
    return f"{boot}/{namespace}"


def incarnation(pid: int) -> str | None:
    """Tells a process from another one that got its pid later; None if it has ended.

    On Linux this is its start in ticks since boot: times of day would change with the clock, and make the living look
    dead.
    """
    try:
        if not PROC.is_dir():
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
        # Behind the name, which may hold anything, come the state and, 19 fields on, the start.
        stat = (PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
        state, *fields = stat.rpartition(")")[2].split()
    except (OSError, psutil.Error):
        return None
    return None if state in {"Z", "X"} else fields[18]
