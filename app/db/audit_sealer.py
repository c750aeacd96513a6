"""The sealer: chains what has been added to the audit log, within some two seconds, in one process of all.

It works on a connection of its own and holds a session lock there. One that has lost the lock without noticing, because
it was stopped or cut off, cannot fork a chain: a seal's number is taken once, and who comes second writes nothing.
Which rows are complete is learned in two rounds. A row's transaction has its number before it draws the position, so
once every transaction has ended that was numbered before ours, no row can still appear up to the newest position that
we had seen then. A transaction that stays open for long, whoever's it is, holds sealing up; nothing is ever skipped.
"""

from dataclasses import dataclass

import asyncpg
import structlog

from app.crashpoints import crashpoint
from app.db.audit_chain import ORGS_AT_ONCE, SEAL, SEAL_SIZE
from app.db.link import PIN_PLANS, Connect, Link
from app.engine.service import Service

INTERVAL = 1.0
SETUP = (
    f"{PIN_PLANS}; SET enable_bitmapscan = off; "
    "SET idle_session_timeout = '15s'; SET idle_in_transaction_session_timeout = '5s'"
)
"""Rows are read in the order of the index, never sorted: a log of millions is sealed as quickly as a short one. And a
sealer that stands still loses its session, and with it the lock, to one that does not."""

LOCK = "SELECT pg_try_advisory_lock(7302582) AS held"
"""Asked in every round, on whatever connection there is by then; it nests. The number means nothing but this lock."""
NEWEST = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS position FROM audit_position"
NUMBER = "SELECT pg_current_xact_id()::text::bigint AS number"
ENDED = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= $1 AS ended"

log = structlog.get_logger("sealer")


@dataclass(frozen=True, slots=True)
class _Horizon:
    """Up to `position` everything is there once all transactions before `number` have ended."""

    position: int
    number: int


class AuditSealer:
    """Seals while this process holds the lock; every process has one."""

    def __init__(self, connect: Connect) -> None:
        self._link = Link(connect, SETUP)
        self._horizon: _Horizon | None = None
        self._sealed_upto = 0
        self.service = Service("audit-sealer", self.seal, INTERVAL)

    async def close(self) -> None:
        await self.service.stop()
        await self._link.close()

    async def seal(self) -> None:
        """One round: seal what is known to be complete, then look how far the next round may go."""
        try:
            if self._horizon is not None and await self._seal_upto(self._horizon):
                self._sealed_upto, self._horizon = self._horizon.position, None
        except asyncpg.UniqueViolationError:
            log.warning("audit_sealed_by_another", meaning="this process had lost the lock; nothing of its was written")
        if self._horizon is None:
            position = (await self._link.fetch(NEWEST))[0]["position"]
            if position > self._sealed_upto:
                # Not in one statement: the number must be drawn after the position was seen.
                self._horizon = _Horizon(position, (await self._link.fetch(NUMBER))[0]["number"])

    async def _seal_upto(self, horizon: _Horizon) -> bool:
        """Seal in small transactions; False if it is not yet time, or not for this process to do."""
        last_org = ""
        while True:
            async with self._link.transaction("BEGIN") as fetch:
                if not (await fetch(LOCK))[0]["held"] or not (await fetch(ENDED, horizon.number))[0]["ended"]:
                    return False
                (done,) = await fetch(SEAL, last_org, horizon.position)
                crashpoint("in_seal")
            if done["largest"] < SEAL_SIZE:
                if done["orgs"] < ORGS_AT_ONCE:
                    return True
                last_org = done["last_org"]
