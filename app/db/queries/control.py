"""The inbox of executions: what people ask of them, put where their owner finds it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, select, text, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.crashpoints import crashpoint
from app.db.queries.executions import ExecutionFilter, Row, fetch_rows
from app.db.tables import execution_inbox as inbox
from app.db.tables import executions as table
from app.domain.mail import MailKind
from app.domain.states import TERMINAL, ExecutionStatus

MAX_NOTICE = 7_900
"""Bytes of ids that fit into one notification; with more, an empty one says: look at everything."""

_BULK = text(
    "INSERT INTO execution_inbox (id, org_id, execution_id, kind, payload, user_id) "
    "SELECT m.id, e.org_id, e.id, CAST(:kind AS text), CAST(:payload AS text), CAST(:user_id AS text) "
    "FROM unnest(CAST(:mail_ids AS text[]), CAST(:execution_ids AS text[])) AS m(id, execution_id) "
    "JOIN executions e ON e.id = m.execution_id "
    "WHERE e.org_id = :org_id AND e.status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED') "
    "RETURNING execution_id"
)


@dataclass(frozen=True, slots=True)
class Letter:
    """Mail to one execution; `payload` is JSON text. `dedupe_key` is unique among its mail of this kind."""

    id: str
    execution_id: str
    kind: MailKind
    payload: str
    user_id: str
    topic: str | None = None
    dedupe_key: str | None = None


async def send(connection: AsyncConnection, org_id: str, letter: Letter) -> datetime | None:
    """Put mail into an inbox and ring for it: durable, and heard, with the transaction.

    The time of sending; None, and nothing sent, if mail with its dedupe key is there already.
    """
    adding = insert(inbox).values(
        id=letter.id,
        org_id=org_id,
        execution_id=letter.execution_id,
        kind=letter.kind.value,
        payload=letter.payload,
        user_id=letter.user_id,
        topic=letter.topic,
        dedupe_key=letter.dedupe_key,
    )
    sent: datetime | None = await connection.scalar(adding.on_conflict_do_nothing().returning(inbox.c.created_at))
    if sent is not None:
        await _ring(connection, [letter.execution_id])
        crashpoint("in_inbox")
    return sent


async def duplicate(
    connection: AsyncConnection, org_id: str, execution_id: str, kind: MailKind, dedupe_key: str
) -> str | None:
    """The id of the mail that has a dedupe key."""
    query = select(inbox.c.id).where(
        inbox.c.org_id == org_id,
        inbox.c.execution_id == execution_id,
        inbox.c.kind == kind.value,
        inbox.c.dedupe_key == dedupe_key,
    )
    found: str | None = await connection.scalar(query)
    return found


async def kept_signals(connection: AsyncConnection, org_id: str, execution_id: str) -> tuple[int, int]:
    """How many signals wait in an inbox to be used, and the bytes of their payloads."""
    own = inbox.c.org_id == org_id, inbox.c.execution_id == execution_id, inbox.c.kind == MailKind.SIGNAL.value
    size = func.octet_length(inbox.c.payload).label("size")
    read = inbox.c.applied_at.is_not(None), inbox.c.topic.is_not(None), inbox.c.consumed_by.is_(None)
    waiting = union_all(select(size).where(*own, inbox.c.applied_at.is_(None)), select(size).where(*own, *read))
    found = waiting.subquery()
    row = (
        await connection.execute(select(func.count(), func.coalesce(func.sum(found.c.size), 0)).select_from(found))
    ).one()
    return int(row[0]), int(row[1])


async def send_to_all(
    connection: AsyncConnection,
    org_id: str,
    execution_ids: Sequence[str],
    mail_ids: Sequence[str],
    *,
    kind: MailKind,
    payload: str,
    user_id: str,
) -> list[str]:
    """Put the same mail into many inboxes; the ids of those that had not ended."""
    values: dict[str, Any] = {
        "org_id": org_id,
        "execution_ids": list(execution_ids),
        "mail_ids": list(mail_ids),
        "kind": kind.value,
        "payload": payload,
        "user_id": user_id,
    }
    sent = sorted((await connection.scalars(_BULK, values)).all())
    if sent:
        await _ring(connection, sent)
    return sent


async def lock(connection: AsyncConnection, name: str) -> None:
    """Let one transaction at a time go on that names this, until it ends."""
    await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


async def running(connection: AsyncConnection, org_id: str, wanted: ExecutionFilter, limit: int) -> Sequence[str]:
    """Ids of what matches and has not ended, the oldest first."""
    return await _ids(connection, org_id, wanted, table.c.status.not_in(TERMINAL), limit)


async def repairable(connection: AsyncConnection, org_id: str, wanted: ExecutionFilter, limit: int) -> Sequence[str]:
    """Ids of what matches, ended badly and was not retried yet, the oldest first."""
    again = table.alias("again")
    retried = exists().where(
        again.c.org_id == org_id,
        again.c.root_id == table.c.root_id,
        again.c.root_id != again.c.id,
        again.c.retry_of == table.c.id,
    )
    failed = table.c.status.in_([ExecutionStatus.FAILED.value, ExecutionStatus.CANCELLED.value])
    return await _ids(connection, org_id, wanted, and_(failed, ~retried), limit)


async def decisions(connection: AsyncConnection, org_id: str, approvals: Sequence[Row]) -> Sequence[Row]:
    """The decisions on some approvals in the order they were made; payloads are JSON texts."""
    query = (
        select(inbox.c.id, inbox.c.topic, inbox.c.payload, inbox.c.user_id, inbox.c.created_at)
        .where(
            inbox.c.org_id == org_id,
            inbox.c.execution_id.in_({row["execution_id"] for row in approvals}),
            inbox.c.kind == MailKind.DECISION.value,
            inbox.c.dedupe_key.is_not(None),  # every decision has one, and the index holds what has one
            inbox.c.topic.in_({row["id"] for row in approvals}),
        )
        .order_by(inbox.c.created_at, inbox.c.id)
    )
    return await fetch_rows(connection, query)


async def _ids(
    connection: AsyncConnection, org_id: str, wanted: ExecutionFilter, condition: ColumnElement[bool], limit: int
) -> Sequence[str]:
    query = select(table.c.id).where(*wanted.conditions(org_id), condition).order_by(table.c.id).limit(limit)
    return (await connection.scalars(query)).all()


async def _ring(connection: AsyncConnection, execution_ids: Sequence[str]) -> None:
    ids = ",".join(execution_ids)
    await connection.execute(select(func.pg_notify("stepstream_inbox", f":{ids if len(ids) <= MAX_NOTICE else ''}")))
