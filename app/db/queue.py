"""Claiming: who waits gets an owner, fairly and within the limits; row locks and a higher lease epoch make it one."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import asyncpg

from app import clock
from app.db.claim_sql import (
    CALLED,
    CLAIM,
    EXPIRED,
    FROZEN_CLAIMER,
    LOOK,
    OVERFLOW,
    RELEASE,
    SERIALISED,
    STRAYS,
)
from app.db.link import PIN_PLANS, Connect, Fetch, Link
from app.db.tables.executions import WANTS_A_SLOT
from app.domain.jsontext import decode
from app.domain.mail import Mail
from app.engine.ports import Claim
from app.engine.rows import StoredStep

SETUP = f"{PIN_PLANS}; SET enable_bitmapscan = off; {FROZEN_CLAIMER}"
"""Bitmaps know no order: to find who is first they would read all who are blocked."""
FIRST_LANE = ("", "", "", "")
FIRST_KEY = ("", "")
PASSES = 20
"""How often one claim looks again when it was cut short, be it by the number of lanes or by a limit."""
OUSTED_AT_ONCE = 50

STEPS = """
SELECT execution_id, path, status, attempt, failures, input, output, ports, error, error_code, reason, wake_at,
       started_at, attempt_started_at, completed_at, execution_time_ms, tokens_used, cost, awaits, reused_from,
       iteration, items, edited_by
  FROM execution_steps WHERE execution_id = ANY($1::text[])"""

MAIL = """
SELECT id, execution_id, kind, payload, user_id, topic, created_at, false AS taken FROM execution_inbox
 WHERE execution_id = ANY($1::text[]) AND applied_at IS NULL
UNION ALL
SELECT id, execution_id, kind, payload, user_id, topic, created_at, true FROM execution_inbox
 WHERE execution_id = ANY($1::text[]) AND applied_at IS NOT NULL AND topic IS NOT NULL AND consumed_by IS NULL
 ORDER BY created_at, id"""
"""What is unread, and letters that were read but not yet used, in the order of sending: that of the database's clock.

Ids bear the time of their sender's host, and those of two hosts may differ.
"""

UNREAD = """
SELECT id, execution_id, kind, payload, user_id, topic, created_at, false AS taken FROM execution_inbox
 WHERE execution_id = ANY($1::text[]) AND applied_at IS NULL
 ORDER BY created_at, id"""

WITH_MAIL = """
SELECT DISTINCT i.execution_id FROM execution_inbox i JOIN executions e ON e.id = i.execution_id
 WHERE i.applied_at IS NULL AND e.owner = $1"""

DEPTH = f"""
SELECT count(*) AS depth, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest FROM (
  SELECT created_at FROM executions WHERE {WANTS_A_SLOT}
  UNION ALL
  SELECT created_at FROM executions WHERE ready AND status IN ('RUNNING', 'CANCELLING')) waiting"""  # noqa: S608 - of constants


class Queue:
    """Implements `app.engine.ports.ExecutionQueue`. Limits are slots at once, 0 for any number."""

    def __init__(
        self, connect: Connect, *, max_running_per_user: int = 0, max_running_per_org: int = 0, suspect_from: int = 3
    ) -> None:
        self._claims = Link(connect, SETUP)
        self._reads = Link(connect, PIN_PLANS)
        self._limits = (max_running_per_user, max_running_per_org)
        self._suspect_from = suspect_from
        self._lane: Sequence[str] = FIRST_LANE
        self._key: Sequence[str] = FIRST_KEY
        self._nobody_waits = False

    async def close(self) -> None:
        await self._claims.close()
        await self._reads.close()

    @property
    def limited(self) -> bool:
        return any(self._limits)

    @property
    def nobody_waits(self) -> bool:
        return self._nobody_waits

    async def claim(self, worker_id: str, limit: int, suspects: int = 1) -> list[Claim]:
        """Take executions that may run and those that must be ended unrun; see the port."""
        look = (await self._claims.fetch(LOOK))[0]
        exact = self.limited or look["keyed"]
        rows = list(await self._claims.fetch(EXPIRED, worker_id, limit)) if look["expired"] else []
        if look["ready"] and len(rows) < limit:
            if exact:
                async with self._claims.transaction(SERIALISED) as fetch:
                    if look["on_limit"]:
                        rows += await self._overflow(fetch, worker_id, limit - len(rows))
                    rows += await self._slots(fetch, worker_id, limit - len(rows), suspects, keyed=True)
            else:
                rows += await self._slots(self._claims.fetch, worker_id, limit - len(rows), suspects, keyed=False)
        self._nobody_waits = not look["ready"] or not (exact or len(rows) >= limit)
        return await self._loaded(sorted(rows, key=lambda row: row["place"]))

    async def claim_called(self, worker_id: str, limit: int) -> list[Claim]:
        """Take executions that have mail and no owner to read it, without slots; see the port."""
        return await self._loaded(await self._claims.fetch(CALLED, worker_id, limit))

    async def release(self, worker_id: str, kept: Callable[[], Collection[str]]) -> int:
        found = await self._claims.read(STRAYS, worker_id, list(kept()))
        now_kept = kept() if found else ()  # what was accepted for this worker meanwhile is no stray
        strays = [row for row in found if row["id"] not in now_kept]
        if not strays:
            return 0
        epochs = [row["lease_epoch"] for row in strays]
        return len(await self._claims.fetch(RELEASE, worker_id, [row["id"] for row in strays], epochs))

    async def mail(self, execution_id: str) -> list[Mail]:
        return (await self._mail(UNREAD, [execution_id]))[execution_id]

    async def with_mail(self, worker_id: str) -> list[str]:
        return [row["execution_id"] for row in await self._reads.read(WITH_MAIL, worker_id)]

    async def depth(self) -> tuple[int, float]:
        """How many executions wait for an owner in order to run, and the age of the oldest in seconds."""
        row = (await self._reads.read(DEPTH))[0]
        return int(row["depth"]), float(row["oldest"])

    async def _slots(
        self, fetch: Fetch, worker_id: str, room: int, suspects: int, *, keyed: bool
    ) -> list[asyncpg.Record]:
        """Fill `room` from the lanes behind those of the last claim, going round once if there is nothing."""
        taken: list[asyncpg.Record] = []
        begun_at, round_again = self._lane, self._lane != FIRST_LANE
        for _ in range(PASSES):
            if len(taken) >= room:
                break
            doubtful = (self._suspect_from, max(suspects, 0))
            answer = await fetch(CLAIM, worker_id, room - len(taken), *self._limits, keyed, *begun_at, *doubtful)
            found = [row for row in answer if row["id"] is not None]
            taken += found
            suspects -= sum(row["recoveries"] >= self._suspect_from for row in found)
            if found and answer[0]["more"]:
                continue
            begun_at = answer[0]["last"] or FIRST_LANE
            if found or (begun_at == FIRST_LANE and not round_again):
                break
            round_again = round_again and begun_at != FIRST_LANE
        self._lane = begun_at
        return taken

    async def _overflow(self, fetch: Fetch, worker_id: str, room: int) -> list[asyncpg.Record]:
        mail_ids = [clock.new_id("mail") for _ in range(OUSTED_AT_ONCE)]
        answer = await fetch(OVERFLOW, worker_id, room, mail_ids, *self._key)
        self._key = answer[0]["last"] or FIRST_KEY
        return [row for row in answer if row["id"] is not None]

    async def _loaded(self, rows: Sequence[asyncpg.Record]) -> list[Claim]:
        steps = await self._steps([row["id"] for row in rows if row["has_steps"]])
        mail = await self._mail(MAIL, [row["id"] for row in rows if row["has_mail"]])
        return [_claim(row, steps[row["id"]], mail[row["id"]]) for row in rows]

    async def _steps(self, execution_ids: Sequence[str]) -> dict[str, list[StoredStep]]:
        found: dict[str, list[StoredStep]] = defaultdict(list)
        if execution_ids:
            for row in await self._claims.read(STEPS, execution_ids):
                found[row["execution_id"]].append(_stored_step(row))
        return found

    async def _mail(self, query: str, execution_ids: Sequence[str]) -> dict[str, list[Mail]]:
        found: dict[str, list[Mail]] = defaultdict(list)
        if execution_ids:
            for row in await self._reads.read(query, execution_ids):
                found[row["execution_id"]].append(_mail(row))
        return found


def _mail(row: asyncpg.Record) -> Mail:
    payload = decode(row["payload"])
    return Mail(row["id"], row["kind"], payload, row["user_id"], row["topic"], row["created_at"], row["taken"])


def _claim(row: asyncpg.Record, steps: list[StoredStep], mail: list[Mail]) -> Claim:
    return Claim(
        id=row["id"],
        org_id=row["org_id"],
        workflow_id=row["workflow_id"],
        workflow_version=row["workflow_version"],
        user_id=row["user_id"],
        root_id=row["root_id"],
        status=row["status"],
        input_text=row["input_data"],
        agent_results_text=row["agent_results"],
        progress=row["progress"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        deadline_at=row["deadline_at"],
        last_recorded_at=row["last_recorded_at"],
        owner=row["owner"],
        epoch=row["lease_epoch"],
        write_no=row["write_no"],
        next_seq=row["next_seq"],
        recoveries=row["recoveries"],
        claimed_at=row["claimed_at"],
        steps=steps,
        mail=mail,
        may_run=row["has_slot"],
        verdict=row["verdict"],
        control_text=row["control"],
        wake_at=row["wake_at"],
        parent_id=row["parent_id"],
        depth=row["depth"],
        priority=row["priority"],
        keyed=row["keyed"],
    )


def _stored_step(row: asyncpg.Record) -> StoredStep:
    return StoredStep(
        path=row["path"],
        status=row["status"],
        attempt=row["attempt"],
        failures=row["failures"],
        input_text=row["input"],
        output_text=row["output"],
        ports=frozenset(row["ports"]),
        error=row["error"],
        error_code=row["error_code"],
        reason=row["reason"],
        wake_at=row["wake_at"],
        started_at=row["started_at"],
        attempt_started_at=row["attempt_started_at"],
        completed_at=row["completed_at"],
        execution_time_ms=row["execution_time_ms"],
        tokens_used=row["tokens_used"],
        cost=row["cost"],
        awaits_text=row["awaits"],
        reused_from=row["reused_from"],
        iteration=row["iteration"],
        items=row["items"],
        edited_by=row["edited_by"],
    )
