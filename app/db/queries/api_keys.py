"""API keys within the tenant's scope. The hash of a key's secret is written here and read by auth alone."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import api_keys as table

SHOWN = [column for column in table.c if column.name != "secret_hash"]


async def add(connection: AsyncConnection, row: dict[str, Any]) -> RowMapping:
    """Insert a key; the row as shown."""
    return (await connection.execute(insert(table).values(**row).returning(*SHOWN))).mappings().one()


async def get(connection: AsyncConnection, org_id: str, key_id: str, user_id: str | None) -> RowMapping | None:
    """The key, if it is `user_id`'s; None asks for anybody's."""
    query = select(*SHOWN).where(*_of(org_id, user_id), table.c.id == key_id)
    return (await connection.execute(query)).mappings().first()


async def page(
    connection: AsyncConnection, org_id: str, user_id: str | None, *, before: str | None, limit: int
) -> Sequence[RowMapping]:
    """Keys of `user_id`, or of everybody for None, with id < `before`, the newest first."""
    conditions = _of(org_id, user_id)
    if before is not None:
        conditions.append(table.c.id < before)
    query = select(*SHOWN).where(*conditions).order_by(table.c.id.desc()).limit(limit)
    return (await connection.execute(query)).mappings().all()


async def revoke(connection: AsyncConnection, org_id: str, key_id: str) -> bool:
    """Whether the key was live until now."""
    statement = (
        update(table)
        .where(table.c.org_id == org_id, table.c.id == key_id, table.c.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
        .returning(table.c.id)
    )
    return (await connection.execute(statement)).first() is not None


def _of(org_id: str, user_id: str | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [table.c.org_id == org_id]
    if user_id is not None:
        conditions.append(table.c.user_id == user_id)
    return conditions
