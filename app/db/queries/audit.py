"""The audit log: insert, page, verify. Rows are never changed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, and_, insert, select
from sqlalchemy.dialects.postgresql import insert as insert_once
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import audit_chain
from app.db.tables import audit_logs as table
from app.domain.audit_chain import Head


async def add(connection: AsyncConnection, *rows: dict[str, Any]) -> None:
    """Insert rows of the same columns; the time is the database's."""
    await connection.execute(insert(table), rows)


async def add_once(connection: AsyncConnection, row: dict[str, Any]) -> None:
    """Insert a row unless there is one with its id."""
    await connection.execute(insert_once(table).values(row).on_conflict_do_nothing())


async def newest(
    connection: AsyncConnection, org_id: str, resource_type: str, resource_id: str, *, after: str
) -> RowMapping | None:
    """The newest row about a resource with id > `after`: rows are found by id alone, so it is not far back."""
    about = (table.c.resource_type == resource_type, table.c.resource_id == resource_id)
    query = select(table).where(table.c.org_id == org_id, table.c.id > after, *about).order_by(table.c.id.desc())
    return (await connection.execute(query.limit(1))).mappings().first()


async def page(
    connection: AsyncConnection,
    org_id: str,
    *,
    before: int | None,
    limit: int,
    action: str | None = None,
    resource_type: str | None = None,
    resource_id: str | None = None,
    user_id: str | None = None,
    success: bool | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> Sequence[RowMapping]:
    """Rows at positions < `before`, the newest first."""
    wanted = {"action": action, "resource_type": resource_type, "resource_id": resource_id, "user_id": user_id}
    conditions = [table.c.org_id == org_id]
    conditions += [table.c[name] == value for name, value in wanted.items() if value is not None]
    if success is not None:
        conditions.append(table.c.success == success)
    if created_after is not None:
        conditions.append(table.c.timestamp >= created_after)
    if created_before is not None:
        conditions.append(table.c.timestamp < created_before)
    if before is not None:
        conditions.append(table.c.position < before)
    query = select(table).where(and_(*conditions)).order_by(table.c.position.desc()).limit(limit)
    return (await connection.execute(query)).mappings().all()


async def verify(connection: AsyncConnection, org_id: str, after: Head) -> audit_chain.Verification:
    """Hold the next stretch of the organisation's chain behind a head against its rows."""

    async def ask(sql: str, *arguments: object) -> audit_chain.Rows:
        return [dict(row) for row in (await connection.exec_driver_sql(sql, arguments)).mappings()]

    return await audit_chain.verify(ask, org_id, after)
