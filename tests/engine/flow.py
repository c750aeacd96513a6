"""Executions in every state by hand, and several processes that claim them: for tests of the queue."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from itertools import count
from typing import Any

from app import clock
from app.db.engines import connect
from app.db.queue import Queue
from app.db.urls import ENGINE
from app.engine.ports import Claim
from tests.database import Database
from tests.engine.harness import ORG

HOUR = "interval '1 hour'"
WORKERS = ("w1", "w2", "w3", "w4")

_ADD = """
WITH new AS (
  INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, status, owner, lease_epoch,
                          has_slot, ready, priority, created_at, wake_at, expires_at, started_at, concurrency_key,
                          concurrency_limit, on_limit, rate_key, rate_limit, rate_seconds, parent_id)
  SELECT id, id, $2, 'wf_' || $2, 1, $3, $4, $5, ($5::text IS NOT NULL)::int, $5::text IS NOT NULL, $6, $7,
         timestamptz '2026-01-01' + $8 * interval '1 second' + n * interval '1 millisecond',
         now() + $9 * interval '1 second', now() + $10 * interval '1 second', now() + $11 * interval '1 second',
         $12, $13, $14, $15, $16, $17, $18
    FROM unnest($1::text[]) WITH ORDINALITY AS x(id, n)
  RETURNING id, org_id, created_at
), event AS (
  INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, progress, data)
  SELECT id, 1, org_id, 'execution_queued', created_at, 0, '{}' FROM new
)
INSERT INTO audit_logs (id, org_id, action, resource_id, success)
SELECT 'audit_' || id, org_id, 'execution.created', id, true FROM new"""


class Flow:
    """Adds executions and moves them on as their drivers would."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._ages = count()
        self._orgs = {ORG: {f"user_{ORG}"}}

    async def open(self) -> None:
        await self._execute(
            "INSERT INTO workers (id, host, pid, incarnation, lease_until) "
            f"SELECT unnest($1::text[]), 'here', 1, '1', now() + {HOUR}", WORKERS,
        )  # fmt: skip

    async def close(self) -> None:
        await self._stack.aclose()

    def queue(self, *, user: int = 0, org: int = 0) -> Queue:
        """The queue of a process with these limits."""
        wire = partial(connect, self._database.role_url(ENGINE), "test")
        queue = Queue(wire, max_running_per_user=user, max_running_per_org=org)
        self._stack.push_async_callback(queue.close)
        return queue

    async def add(
        self,
        n: int = 1,
        *,
        org: str = ORG,
        user: str = "",
        status: str = "PENDING",
        ready: bool | None = None,
        owner: str | None = None,
        priority: int = 0,
        wakes_in: float | None = None,
        expires_in: float | None = None,
        begun: float | None = None,
        key: str | None = None,
        limit: int | None = None,
        on_limit: str | None = None,
        rate: tuple[str, int, float] | None = None,
        parent: str | None = None,
    ) -> list[str]:
        """`n` executions, each younger than all before it; their ids. Times are seconds from now.

        They are ready if they are nobody's and have no time to wake, unless told otherwise.
        """
        user = await self._known(org, user or f"user_{org}")
        if status == "WAITING" and wakes_in is None:
            wakes_in = 3600
        wants = owner is None and (status in {"RUNNING", "CANCELLING"} or (status == "PENDING" and wakes_in is None))
        ids = [clock.new_id("exec") for _ in range(n)]
        rate_key, rate_limit, rate_seconds = rate or (None, None, None)
        await self._execute(
            _ADD, ids, org, user, status, owner, wants if ready is None else ready, priority, next(self._ages),
            wakes_in, expires_in, begun, key, limit, on_limit or (key and "queue"), rate_key, rate_limit, rate_seconds,
            parent,
        )  # fmt: skip
        return ids

    async def one(self, **state: Any) -> str:
        (execution_id,) = await self.add(**state)
        return execution_id

    async def begin(self, *ids: str) -> None:
        """What a driver records first."""
        await self._execute(
            "UPDATE executions SET status = 'RUNNING', started_at = coalesce(started_at, clock_timestamp()) "
            "WHERE id = ANY($1::text[]) AND owner IS NOT NULL", ids,
        )  # fmt: skip

    async def leave(self, *ids: str) -> None:
        """Fall asleep for long, and so hold nothing any more."""
        await self._execute(
            "UPDATE executions SET status = 'WAITING', owner = NULL, ready = false, wake_at = now() + interval '9 h', "
            "started_at = coalesce(started_at, clock_timestamp()) WHERE id = ANY($1::text[])", ids,
        )  # fmt: skip

    async def wake(self, *ids: str) -> None:
        """Let the time come that they wait for."""
        await self._execute("UPDATE executions SET wake_at = now() WHERE id = ANY($1::text[])", ids)

    async def mail(self, execution_id: str, kind: str = "cancel", *, topic: str | None = None, org: str = ORG) -> str:
        mail_id = clock.new_id("mail")
        await self._execute(
            "INSERT INTO execution_inbox (id, org_id, execution_id, kind, topic, payload, user_id) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7)",
            mail_id, org, execution_id, kind, topic, '{"reason":"stop"}', f"user_{org}",
        )  # fmt: skip
        return mail_id

    async def read(self, *mail_ids: str) -> None:
        await self._execute("UPDATE execution_inbox SET applied_at = now() WHERE id = ANY($1::text[])", mail_ids)

    async def holders(self, column: str = "user_id") -> dict[str, int]:
        """How many slots are held, by user, organisation or key."""
        async with self._lock:
            rows = await self._database.fetch(
                f"SELECT {column} AS whose, count(*) AS n FROM executions WHERE {column} IS NOT NULL "
                "AND (owner IS NOT NULL AND has_slot OR status IN ('RUNNING', 'CANCELLING')) GROUP BY 1"
            )
        return {row["whose"]: row["n"] for row in rows}

    async def _execute(self, sql: str, *arguments: object) -> None:
        async with self._lock:
            await self._database.execute(sql, *arguments)

    async def _known(self, org: str, user: str) -> str:
        if org not in self._orgs:
            await self._database.add_tenant(org)
            self._orgs[org] = {f"user_{org}"}
        if user not in self._orgs[org]:
            await self._execute(
                "INSERT INTO users (id, email, name) VALUES ($1, $1 || '@example.com', 'Bob') ON CONFLICT DO NOTHING",
                user,
            )
            self._orgs[org].add(user)
        return user


async def claimed(queue: Queue, limit: int = 100, worker: str = "w1") -> list[str]:
    """Ids in the order of the claim; none of them is to be ended."""
    claims = await queue.claim(worker, limit)
    assert all(claim.may_run and claim.verdict is None for claim in claims)
    return [claim.id for claim in claims]


def verdicts(claims: list[Claim]) -> dict[str, str | None]:
    """By id; None for who got a slot."""
    assert all(claim.may_run is (claim.verdict is None) for claim in claims)
    return {claim.id: claim.verdict for claim in claims}
