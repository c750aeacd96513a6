"""Approvals within the tenant's scope. The recorder writes them; decisions on them are mail."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, cast, exists, func, literal, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.queries.executions import Row, fetch_rows
from app.db.tables import approvals as table
from app.db.tables import execution_inbox as inbox
from app.db.tables import executions
from app.domain.mail import MailKind


@dataclass(frozen=True, slots=True)
class DecidableBy:
    """Narrows to what a user with a role may decide and has not decided yet."""

    user_id: str
    role: str

    def condition(self) -> ColumnElement[bool]:
        deciders = cast(table.c.deciders, JSONB)
        users, roles = deciders["users"], deciders["roles"]
        open_to_all = and_(_length(users) == 0, _length(roles) == 0)
        named = or_(users.has_key(self.user_id), roles.has_key(self.role))
        own = deciders["requested_by"].astext == self.user_id
        self_approval = func.coalesce(deciders["self_approval"].astext, "false") == "true"
        decided = exists().where(
            inbox.c.org_id == table.c.org_id,
            inbox.c.execution_id == table.c.execution_id,
            inbox.c.kind == MailKind.DECISION.value,
            inbox.c.dedupe_key == table.c.id + literal(f":{self.user_id}"),
        )
        return and_(or_(open_to_all, named), or_(func.coalesce(own, False).is_(False), self_approval), ~decided)


async def get(connection: AsyncConnection, org_id: str, approval_id: str) -> Row | None:
    query = _shown().where(table.c.org_id == org_id, table.c.id == approval_id)
    return next(iter(await fetch_rows(connection, query)), None)


async def lock(connection: AsyncConnection, approval_id: str) -> None:
    """Let one decision on an approval be made at a time, until the transaction ends."""
    await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(approval_id, 0))))


async def page(
    connection: AsyncConnection,
    org_id: str,
    *,
    statuses: frozenset[str],
    execution_id: str | None,
    decidable_by: DecidableBy | None,
    before: str | None,
    limit: int,
) -> Sequence[Row]:
    """Approvals with id < `before`, the newest first; no statuses: all."""
    query = _shown().where(table.c.org_id == org_id)
    if statuses:
        query = query.where(table.c.status.in_(statuses))
    if execution_id is not None:
        query = query.where(table.c.execution_id == execution_id)
    if decidable_by is not None:
        query = query.where(decidable_by.condition())
    if before is not None:
        query = query.where(table.c.id < before)
    return await fetch_rows(connection, query.order_by(table.c.id.desc()).limit(limit))


def _shown() -> Select[Any]:
    of = and_(executions.c.org_id == table.c.org_id, executions.c.id == table.c.execution_id)
    return select(table, executions.c.workflow_id).join(executions, of)


def _length(array: Any) -> ColumnElement[int]:
    return func.coalesce(func.jsonb_array_length(array), 0)
