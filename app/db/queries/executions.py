"""Reading executions within the tenant's scope. Nothing here writes: that is the recorder's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import execution_inbox as inbox
from app.db.tables import execution_steps as steps
from app.db.tables import executions as table
from app.db.tables import step_attempts as attempts

Row = Mapping[str, Any]
"""A row by column name; JSON payloads are texts."""

_PRIVATE = {
    "priority", "root_id", "ip_address", "user_agent", "request_id", "deadline_at", "last_recorded_at", "owner",
    "lease_epoch", "write_no", "next_seq", "recoveries",
}  # fmt: skip
SHOWN = [column for column in table.c if column.name not in _PRIVATE]


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """What a list is narrowed to; empty fields narrow nothing."""

    statuses: frozenset[str] = frozenset()
    workflow_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def conditions(self, org_id: str) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = [table.c.org_id == org_id]
        if self.statuses:
            found.append(table.c.status.in_(self.statuses))
        if self.workflow_id is not None:
            found.append(table.c.workflow_id == self.workflow_id)
        if self.created_after is not None:
            found.append(table.c.created_at >= self.created_after)
        if self.created_before is not None:
            found.append(table.c.created_at < self.created_before)
        if self.labels:
            found.append(table.c.labels.contains(self.labels))
        return found


async def get(connection: AsyncConnection, org_id: str, execution_id: str) -> Row | None:
    query = select(*SHOWN).where(table.c.org_id == org_id, table.c.id == execution_id)
    return next(iter(await _rows(connection, query)), None)


async def page(
    connection: AsyncConnection, org_id: str, wanted: ExecutionFilter, *, before: str | None, limit: int
) -> Sequence[Row]:
    """Rows with id < `before`, the newest first."""
    conditions = wanted.conditions(org_id)
    if before is not None:
        conditions.append(table.c.id < before)
    query = select(*SHOWN).where(and_(*conditions)).order_by(table.c.id.desc()).limit(limit)
    return await _rows(connection, query)


async def steps_of(connection: AsyncConnection, org_id: str, execution_id: str) -> Sequence[Row]:
    """Steps that have a row: those that started or were settled, in topological order."""
    query = (
        select(steps)
        .where(steps.c.org_id == org_id, steps.c.execution_id == execution_id)
        .order_by(steps.c.step_number, steps.c.path)
    )
    return await _rows(connection, query)


async def attempts_of(connection: AsyncConnection, org_id: str, execution_id: str) -> Sequence[Row]:
    """Ended attempts, by step and number."""
    query = (
        select(attempts)
        .where(attempts.c.org_id == org_id, attempts.c.execution_id == execution_id)
        .order_by(attempts.c.path, attempts.c.attempt)
    )
    return await _rows(connection, query)


async def status_counts(connection: AsyncConnection, org_id: str, wanted: ExecutionFilter) -> Sequence[Row]:
    """Count, mean and 95th percentile of duration, tokens and cost, by status."""
    percentile = func.percentile_cont(0.95).within_group(table.c.duration_seconds)
    query = (
        select(
            table.c.status,
            func.count().label("count"),
            func.avg(table.c.duration_seconds).label("average_duration_seconds"),
            percentile.label("p95_duration_seconds"),
            func.coalesce(func.sum(table.c.tokens_used), 0).label("tokens_used"),
            func.coalesce(func.sum(table.c.cost), 0.0).label("cost"),
        )
        .where(and_(*wanted.conditions(org_id)))
        .group_by(table.c.status)
    )
    return await _rows(connection, query)


async def send(
    connection: AsyncConnection,
    *,
    mail_id: str,
    org_id: str,
    execution_id: str,
    kind: str,
    payload: str,
    user_id: str,
) -> None:
    """Put mail into an execution's inbox and ring for it; durable, and heard, with the transaction."""
    await connection.execute(
        insert(inbox).values(
            id=mail_id, org_id=org_id, execution_id=execution_id, kind=kind, payload=payload, user_id=user_id
        )
    )
    await connection.execute(select(func.pg_notify("stepstream_inbox", f":{execution_id}")))


async def _rows(connection: AsyncConnection, query: Select[Any]) -> list[Row]:
    return [dict(row) for row in (await connection.execute(query)).mappings()]
