"""Reading executions within the tenant's scope. Nothing here writes: that is the recorder's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Executable, and_, func, literal_column, or_, select, tuple_, union
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import execution_labels as labels
from app.db.tables import execution_steps as steps
from app.db.tables import executions as table
from app.db.tables import step_attempts as attempts
from app.db.tables.executions import HAS_RARE_STATUS
from app.domain.states import ExecutionStatus

Row = Mapping[str, Any]
"""A row by column name; JSON payloads are texts."""

_CLIENT = {"ip_address", "user_agent", "request_id"}
_ENGINE = {
    "priority", "root_id", "deadline_at", "last_recorded_at", "owner", "lease_epoch", "write_no", "next_seq",
    "recoveries", "control", "ready", "parent_path", "depth", "expires_at", "concurrency_key", "concurrency_limit",
    "on_limit", "rate_key", "rate_limit", "rate_seconds", "fingerprint",
}  # fmt: skip
SHOWN = [column for column in table.c if column.name not in _CLIENT | _ENGINE]
WHOLE = [column for column in table.c if column.name not in _CLIENT]
RARE_STATUSES = frozenset(ExecutionStatus) - {ExecutionStatus.RUNNING, ExecutionStatus.COMPLETED}


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """What a list is narrowed to; empty fields narrow nothing, but `ids` that are given narrow to those."""

    statuses: frozenset[str] = frozenset()
    workflow_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    labels: dict[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    ids: frozenset[str] | None = None
    retry_of: str | None = None
    parent_id: str | None = None
    root_id: str | None = None

    def conditions(self, org_id: str) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = [table.c.org_id == org_id]
        if self.statuses:
            found.append(table.c.status.in_(self.statuses))
            if self.statuses <= RARE_STATUSES:
                found.append(literal_column(HAS_RARE_STATUS, Boolean))  # what its index holds
        if self.workflow_id is not None:
            found.append(table.c.workflow_id == self.workflow_id)
        if self.created_after is not None:
            found.append(table.c.created_at >= self.created_after)
        if self.created_before is not None:
            found.append(table.c.created_at < self.created_before)
        for key, value in self.labels.items():
            labelled = select(labels.c.execution_id)
            labelled = labelled.where(labels.c.org_id == org_id, labels.c.key == key, labels.c.value == value)
            found.append(table.c.id.in_(labelled))
        if self.fingerprint is not None:
            found.append(table.c.fingerprint == self.fingerprint)
        if self.ids is not None:
            found.append(table.c.id.in_(self.ids))
        if self.parent_id is not None:
            found.append(table.c.parent_id == self.parent_id)
        if self.root_id is not None:
            found.append(or_(table.c.id == self.root_id, _made_from(self.root_id)))
        if self.retry_of is not None:
            earlier = table.alias("earlier")
            root = select(earlier.c.root_id).where(earlier.c.org_id == org_id, earlier.c.id == self.retry_of)
            found += [table.c.retry_of == self.retry_of, _made_from(root.scalar_subquery())]
        return found


def _made_from(root_id: Any) -> ColumnElement[bool]:
    """`root_id <> id` is what the index on root_id holds; a root itself is found by its id."""
    return and_(table.c.root_id == root_id, table.c.root_id != table.c.id)


async def get(connection: AsyncConnection, org_id: str, execution_id: str) -> Row | None:
    """One execution with everything but where its request came from."""
    query = select(*WHOLE).where(table.c.org_id == org_id, table.c.id == execution_id)
    return next(iter(await fetch_rows(connection, query)), None)


async def page(
    connection: AsyncConnection, org_id: str, wanted: ExecutionFilter, *, before: str | None, limit: int
) -> Sequence[Row]:
    """Rows with id < `before`, the newest first."""
    conditions = wanted.conditions(org_id)
    if before is not None:
        conditions.append(table.c.id < before)
    query = select(*SHOWN).where(and_(*conditions)).order_by(table.c.id.desc()).limit(limit)
    return await fetch_rows(connection, query)


async def family(connection: AsyncConnection, org_id: str, root_id: str, limit: int) -> Sequence[Row]:
    """The executions of one root and those that they started, the oldest first."""
    names = ("id", "workflow_id", "status", "retry_of", "forked_from", "parent_id", "created_at")
    shown = [table.c[name] for name in names]
    ids = select(table.c.id).where(table.c.org_id == org_id)
    # A union where an `or` would do: each part has an index of its own, and all executions are looked at without.
    again = ids.where(_made_from(root_id))
    kin = union(ids.where(table.c.id == root_id), again).cte("kin")
    started = ids.where(table.c.parent_id.in_(select(kin.c.id)))
    related = union(select(kin.c.id), started).subquery()
    whole = select(*shown).where(table.c.org_id == org_id, table.c.id.in_(select(related.c.id)))
    # Not by id: that of a started one begins like its parent's and may sort before it.
    query = whole.order_by(table.c.created_at, table.c.id).limit(limit)
    return await fetch_rows(connection, query)


async def step_of(connection: AsyncConnection, org_id: str, execution_id: str, path: str) -> Row | None:
    """One step, or one item (`map[3]`), if it has a row."""
    query = select(steps).where(*_of(steps, org_id, execution_id), steps.c.path == path)
    return next(iter(await fetch_rows(connection, query)), None)


async def outcomes_of(connection: AsyncConnection, org_id: str, execution_id: str) -> Sequence[Row]:
    """How steps and items stand, without what went in and came out."""
    shown = (steps.c.path, steps.c.type, steps.c.status, steps.c.reason, steps.c.started_at, steps.c["items"])
    return await fetch_rows(connection, select(*shown).where(*_of(steps, org_id, execution_id)).order_by(steps.c.path))


async def items_of(
    connection: AsyncConnection,
    org_id: str,
    execution_id: str,
    step_id: str,
    statuses: frozenset[str],
    *,
    after: str,
    limit: int,
) -> Sequence[Row]:
    """Rows of a step's items behind the one with the path `after`, by index."""
    # In the collation of paths `\` follows `[`, so that this range is the step's items and nothing else. Of two indexes
    # the longer text is the higher one: no number need be made of ten thousand texts.
    place = (func.length(steps.c.path), steps.c.path)
    conditions = [
        *_of(steps, org_id, execution_id),
        steps.c.path > f"{step_id}[",
        steps.c.path < f"{step_id}\\",
        tuple_(*place) > tuple_(len(after), after),
    ]
    if statuses:
        conditions.append(steps.c.status.in_(statuses))
    wanted = select(steps.c.path).where(and_(*conditions)).order_by(*place).limit(limit)
    query = select(steps).where(*_of(steps, org_id, execution_id), steps.c.path.in_(wanted)).order_by(*place)
    return await fetch_rows(connection, query)


async def attempts_of(
    connection: AsyncConnection, org_id: str, execution_id: str, paths: Sequence[str] | None = None
) -> Sequence[Row]:
    """Ended attempts, by step and number: those of `paths`, or of every step but not of items."""
    narrowed = _whole(attempts) if paths is None else attempts.c.path.in_(paths)
    query = (
        select(attempts)
        .where(*_of(attempts, org_id, execution_id), narrowed)
        .order_by(attempts.c.path, attempts.c.attempt)
    )
    return await fetch_rows(connection, query)


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
    return await fetch_rows(connection, query)


def _of(rows: Any, org_id: str, execution_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return rows.c.org_id == org_id, rows.c.execution_id == execution_id


def _whole(rows: Any) -> ColumnElement[bool]:
    return func.strpos(rows.c.path, "[") == 0


async def fetch_rows(
    connection: AsyncConnection, query: Executable, values: Mapping[str, Any] | None = None
) -> list[Row]:
    """What a query answers, as rows that outlive the connection."""
    return [dict(row) for row in (await connection.execute(query, values)).mappings()]
