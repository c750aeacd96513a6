"""Budgets of the day with what was used of them; an empty workflow id stands for the whole organisation."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Date, Select, cast, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.queries.executions import Row, fetch_rows
from app.db.tables import day_budgets as table
from app.db.tables import usage_by_day as usage

_TODAY: ColumnElement[Any] = cast(func.timezone("UTC", func.clock_timestamp()), Date)


async def page(connection: AsyncConnection, org_id: str) -> Sequence[Row]:
    """All of them, that of the organisation first."""
    return await fetch_rows(connection, _with_usage(org_id).order_by(table.c.workflow_id))


async def get(connection: AsyncConnection, org_id: str, workflow_id: str) -> Row | None:
    """One budget, None if none is set."""
    found = await fetch_rows(connection, _with_usage(org_id).where(table.c.workflow_id == workflow_id))
    return found[0] if found else None


async def put(
    connection: AsyncConnection, org_id: str, workflow_id: str, limits: Mapping[str, float | None], user_id: str
) -> None:
    """Set a budget in place of what was there."""
    values = {**limits, "updated_at": func.clock_timestamp(), "updated_by": user_id}
    await connection.execute(
        insert(table)
        .values(org_id=org_id, workflow_id=workflow_id, **values)
        .on_conflict_do_update(index_elements=[table.c.org_id, table.c.workflow_id], set_=values)
    )


async def remove(connection: AsyncConnection, org_id: str, workflow_id: str) -> bool:
    """True if there was one."""
    gone = delete(table).where(table.c.org_id == org_id, table.c.workflow_id == workflow_id)
    return (await connection.execute(gone)).rowcount > 0


def _with_usage(org_id: str) -> Select[Any]:
    used = (
        select(
            func.coalesce(func.sum(usage.c.steps), 0).label("steps"),
            func.coalesce(func.sum(usage.c.seconds), 0.0).label("seconds"),
            func.coalesce(func.sum(usage.c.tokens), 0).label("tokens"),
            func.coalesce(func.sum(usage.c.cost), 0.0).label("cost"),
        )
        .where(
            usage.c.org_id == org_id,
            usage.c.day == _TODAY,
            or_(table.c.workflow_id == "", usage.c.workflow_id == table.c.workflow_id),
        )
        .lateral("used")
    )
    return select(table, used, _TODAY.label("day")).select_from(table).where(table.c.org_id == org_id)
