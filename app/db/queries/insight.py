"""What it takes to understand runs, read within the tenant's scope. Every answer is bounded, whatever is stored."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Text,
    any_,
    cast,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.queries.executions import SHOWN, Row, fetch_rows
from app.db.tables import approvals, workflow_versions
from app.db.tables import execution_events as events
from app.db.tables import execution_inbox as inbox
from app.db.tables import execution_steps as steps
from app.db.tables import executions as table
from app.db.tables import step_attempts as attempts
from app.db.tables.executions import HOLDS_A_SLOT, WANTS_A_SLOT
from app.domain.mail import MailKind

LOOKED_AT = 1_000
"""How many earlier executions are searched for those that completed."""
COUNTED_AHEAD = 1_000
OPEN_STEPS, TIMED_STEPS, TIMED_ATTEMPTS, TIMED_EVENTS, LISTED = 200, 1_000, 5_000, 5_000, 20
_HOLDS_A_SLOT = literal_column("(" + HOLDS_A_SLOT + ")", Boolean)
_WANTS_A_SLOT = literal_column("(" + WANTS_A_SLOT + ")", Boolean)
"""Written out, not bound: only so the planner sees that the partial indexes on them serve."""
_IS_ITEM = func.strpos(steps.c.path, "[") > 0


async def state(connection: AsyncConnection, org_id: str, execution_id: str) -> Row | None:
    """The whole row, with the database's time as `now`."""
    query = select(table, func.clock_timestamp().label("now")).where(
        table.c.org_id == org_id, table.c.id == execution_id
    )
    return next(iter(await fetch_rows(connection, query)), None)


async def open_steps(connection: AsyncConnection, org_id: str, execution_id: str) -> Sequence[Row]:
    """Steps that run or wait, those for a time first in the order of that time; without their payloads."""
    query = (
        select(
            steps.c.path, steps.c.status, steps.c.attempt, steps.c.reason, steps.c.wake_at, steps.c.error,
            steps.c.error_code, steps.c.attempt_started_at, steps.c.awaits,
        )
        .where(
            steps.c.org_id == org_id,
            steps.c.execution_id == execution_id,
            steps.c.status.in_(("RUNNING", "WAITING")),
        )
        .order_by(_IS_ITEM, steps.c.wake_at, steps.c.step_number, steps.c.path)
        .limit(OPEN_STEPS)
    )  # fmt: skip
    return await fetch_rows(connection, query)


async def undecided(connection: AsyncConnection, org_id: str, execution_id: str) -> Sequence[Row]:
    """Approvals that are not decided yet, and how many people have approved: one rejection would have decided."""
    approved = (
        select(func.count())
        .where(
            inbox.c.org_id == org_id,
            inbox.c.execution_id == execution_id,
            inbox.c.kind == MailKind.DECISION.value,
            inbox.c.topic == approvals.c.id,
            inbox.c.dedupe_key.is_not(None),  # which all of them have, and by which they are found
        )
        .scalar_subquery()
    )
    named = (approvals.c.id, approvals.c.path, approvals.c.title, approvals.c.deadline_at, approvals.c.quorum)
    query = (
        select(*named, approved.label("approved"))
        .where(approvals.c.org_id == org_id, approvals.c.execution_id == execution_id, approvals.c.status == "PENDING")
        .order_by(approvals.c.id)
        .limit(LISTED)
    )
    return await fetch_rows(connection, query)


async def unread_mail(connection: AsyncConnection, org_id: str, execution_id: str) -> Sequence[Row]:
    """What was asked of the execution and its owner has not taken note of."""
    query = (
        select(inbox.c.kind, inbox.c.created_at)
        .where(inbox.c.org_id == org_id, inbox.c.execution_id == execution_id, inbox.c.applied_at.is_(None))
        .order_by(inbox.c.id)
        .limit(LISTED)
    )
    return await fetch_rows(connection, query)


async def unused_signals(connection: AsyncConnection, org_id: str, execution_id: str) -> frozenset[str]:
    """Names of the signals that have come and no step has used."""
    query = select(inbox.c.topic).where(
        inbox.c.org_id == org_id,
        inbox.c.execution_id == execution_id,
        inbox.c.kind == MailKind.SIGNAL.value,
        inbox.c.applied_at.is_not(None),
        inbox.c.topic.is_not(None),
        inbox.c.consumed_by.is_(None),
    )
    return frozenset((await connection.scalars(query)).all())


async def cancelling_since(connection: AsyncConnection, org_id: str, execution_id: str) -> datetime | None:
    """When its owner began to end it: the grace counts from then."""
    # By the events, as no index holds mail that was taken note of.
    query = select(func.min(events.c.timestamp)).where(
        events.c.org_id == org_id, events.c.execution_id == execution_id, events.c.type == "execution_cancelling"
    )
    found: datetime | None = await connection.scalar(query)
    return found


async def user_slots(connection: AsyncConnection, org_id: str, user_id: str) -> tuple[int, list[str]]:
    """How many executions hold a slot of a user, and the oldest of them."""
    return await _holders(connection, table.c.org_id == org_id, table.c.user_id == user_id)


async def org_slots(connection: AsyncConnection, org_id: str) -> tuple[int, list[str]]:
    """How many executions hold a slot of the organisation, and the oldest of them."""
    return await _holders(connection, table.c.org_id == org_id)


async def key_slots(connection: AsyncConnection, org_id: str, key: str) -> tuple[int, list[str]]:
    """How many executions hold a slot of a concurrency key, and the oldest of them."""
    return await _holders(connection, table.c.org_id == org_id, table.c.concurrency_key == key)


async def _holders(connection: AsyncConnection, *whose: ColumnElement[bool]) -> tuple[int, list[str]]:
    query = (
        select(table.c.id, func.count().over().label("held"))
        .where(*whose, _HOLDS_A_SLOT)
        .order_by(table.c.created_at, table.c.id)
        .limit(LISTED)
    )
    rows = await fetch_rows(connection, query)
    return (rows[0]["held"] if rows else 0), [row["id"] for row in rows]


async def begun_within(connection: AsyncConnection, row: Row) -> Sequence[datetime]:
    """When executions of the row's rate key began within its span, the newest first; at most as many as may."""
    since = row["now"] - timedelta(seconds=row["rate_seconds"])
    query = (
        select(table.c.started_at)
        .where(table.c.org_id == row["org_id"], table.c.rate_key == row["rate_key"], table.c.started_at > since)
        .order_by(table.c.started_at.desc())
        .limit(row["rate_limit"])
    )
    return [found["started_at"] for found in await fetch_rows(connection, query)]


async def ahead_of(connection: AsyncConnection, row: Row) -> int:
    """How many of its own queue go before it: same user, or same concurrency key. Counts to a thousand."""
    if row["concurrency_key"] is None:
        queue = [table.c.user_id == row["user_id"], table.c.concurrency_key.is_(None)]
    else:
        queue = [table.c.concurrency_key == row["concurrency_key"]]
    place = (table.c.status == "PENDING", -table.c.priority, table.c.created_at, table.c.id)
    mine = (literal(row["status"] == "PENDING"), literal(-row["priority"]), row["created_at"], row["id"])
    before = (
        select(table.c.id)
        .where(table.c.org_id == row["org_id"], _WANTS_A_SLOT, *queue, tuple_(*place) < tuple_(*mine))
        .limit(COUNTED_AHEAD)
        .subquery()
    )
    return int(await connection.scalar(select(func.count()).select_from(before)) or 0)


async def newest_success(connection: AsyncConnection, org_id: str, workflow_id: str, before: str) -> Row | None:
    """The last COMPLETED execution of a workflow before one, among the thousand before it; whole runs only."""
    recent = (
        select(table.c.id, table.c.status, table.c.control)
        .where(table.c.org_id == org_id, table.c.workflow_id == workflow_id, table.c.id < before)
        .order_by(table.c.id.desc())
        .limit(LOOKED_AT)
        .subquery()
    )
    whole_run = func.strpos(recent.c.control, '"only":') == 0
    newest = select(recent.c.id).where(recent.c.status == "COMPLETED", whole_run).order_by(recent.c.id.desc()).limit(1)
    query = select(*SHOWN).where(table.c.org_id == org_id, table.c.id == newest.scalar_subquery())
    return next(iter(await fetch_rows(connection, query)), None)


async def definition_text(connection: AsyncConnection, org_id: str, workflow_id: str, version: int) -> str | None:
    """The JSON text of a version's definition."""
    query = select(workflow_versions.c.definition).where(
        workflow_versions.c.org_id == org_id,
        workflow_versions.c.workflow_id == workflow_id,
        workflow_versions.c.version == version,
    )
    found: str | None = await connection.scalar(query)
    return found


async def timed_steps(connection: AsyncConnection, org_id: str, execution_id: str) -> Sequence[Row]:
    """Times of steps, items of a `for_each` last; one more than `TIMED_STEPS` if there are more."""
    query = (
        select(
            steps.c.path, steps.c.step_number, steps.c.status, steps.c.attempt, steps.c.reason, steps.c.ports,
            steps.c.started_at, steps.c.attempt_started_at, steps.c.completed_at, steps.c.execution_time_ms,
            steps.c.wake_at, steps.c.reused_from,
        )
        .where(steps.c.org_id == org_id, steps.c.execution_id == execution_id)
        .order_by(_IS_ITEM, steps.c.step_number, steps.c.path)
        .limit(TIMED_STEPS + 1)
    )  # fmt: skip
    return await fetch_rows(connection, query)


async def timed_attempts(connection: AsyncConnection, org_id: str, execution_id: str) -> Sequence[Row]:
    """Times of ended attempts; one more than `TIMED_ATTEMPTS` if there are more."""
    query = (
        select(attempts.c.path, attempts.c.attempt, attempts.c.status, attempts.c.started_at, attempts.c.completed_at)
        .where(attempts.c.org_id == org_id, attempts.c.execution_id == execution_id)
        .order_by(func.strpos(attempts.c.path, "[") > 0, attempts.c.path, attempts.c.attempt)
        .limit(TIMED_ATTEMPTS + 1)
    )
    return await fetch_rows(connection, query)


async def events_of(connection: AsyncConnection, org_id: str, execution_id: str, types: Sequence[str]) -> Sequence[Row]:
    """Events of these types in order; one more than `TIMED_EVENTS` if there are more."""
    query = (
        select(events.c.type, events.c.step_id, events.c.timestamp, events.c.data)
        .where(events.c.org_id == org_id, events.c.execution_id == execution_id, events.c.type.in_(types))
        .order_by(events.c.seq)
        .limit(TIMED_EVENTS + 1)
    )
    return await fetch_rows(connection, query)


async def usual_times(
    connection: AsyncConnection, org_id: str, workflow_id: str, paths: Sequence[str]
) -> dict[str, float]:
    """Mean milliseconds from start to end of these steps over the workflow's last 20 COMPLETED executions.

    A step that a run skipped took it no time; one that was reused says nothing.
    """
    recent = (
        select(table.c.id, table.c.status)
        .where(table.c.org_id == org_id, table.c.workflow_id == workflow_id)
        .order_by(table.c.id.desc())
        .limit(LOOKED_AT)
        .subquery()
    )
    last = select(recent.c.id).where(recent.c.status == "COMPLETED").order_by(recent.c.id.desc()).limit(LISTED)
    # Two statements: told the ids, the planner reads only these executions' steps.
    ids = list(await connection.scalars(last))
    took = func.extract("epoch", steps.c.completed_at - steps.c.started_at) * 1000
    query = (
        select(steps.c.path, func.avg(func.coalesce(took, 0)).label("usual"))
        .where(
            steps.c.org_id == org_id,
            steps.c.execution_id == any_of(ids),
            steps.c.path == any_of(paths),
            steps.c.reused_from.is_(None),
        )
        .group_by(steps.c.path)
    )
    return {row["path"]: float(row["usual"]) for row in await fetch_rows(connection, query)}


def any_of(paths: Sequence[str]) -> ColumnElement[Any]:
    """One of many, as one parameter."""
    return any_(cast(list(paths), ARRAY(Text)))
