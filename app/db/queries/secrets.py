"""Secrets within the tenant's scope. What is sealed is written here and read by the engine alone."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import RowMapping, Select, delete, func, insert, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import secrets as table

_SEALED = {"ciphertext", "wrapped_key", "key_id"}
SHOWN = [column for column in table.c if column.name not in _SEALED]


async def lock(connection: AsyncConnection, org_id: str, name: str) -> int:
    """Keep others from changing this secret until the end of the transaction; its version, 0 if there is none."""
    key = func.hashtextextended(f"secret:{org_id}|{name}", 0)
    await connection.execute(select(func.pg_advisory_xact_lock(key)))
    query = select(func.coalesce(func.max(table.c.version), 0)).where(table.c.org_id == org_id, table.c.name == name)
    version: int = (await connection.execute(query)).scalar_one()
    return version


async def add_version(connection: AsyncConnection, row: dict[str, Any]) -> RowMapping:
    """Insert a version and forget all but the one before it; the row as shown."""
    older = (table.c.org_id == row["org_id"], table.c.name == row["name"], table.c.version < row["version"] - 1)
    await connection.execute(delete(table).where(*older))
    return (await connection.execute(insert(table).values(**row).returning(*SHOWN))).mappings().one()


async def get(connection: AsyncConnection, org_id: str, name: str) -> RowMapping | None:
    """The newest version as shown."""
    return (await connection.execute(_newest(org_id).where(table.c.name == name))).mappings().first()


async def page(connection: AsyncConnection, org_id: str, *, after: str, limit: int) -> Sequence[RowMapping]:
    """Secrets with a name > `after`, by name."""
    return (await connection.execute(_newest(org_id).where(table.c.name > after).limit(limit))).mappings().all()


async def named(connection: AsyncConnection, org_id: str, names: Collection[str]) -> Sequence[RowMapping]:
    """Those of the named ones that there are."""
    return (await connection.execute(_newest(org_id).where(table.c.name.in_(sorted(names))))).mappings().all()


async def remove(connection: AsyncConnection, org_id: str, name: str) -> bool:
    """Whether there was one."""
    statement = delete(table).where(table.c.org_id == org_id, table.c.name == name)
    return (await connection.execute(statement)).rowcount > 0


def _newest(org_id: str) -> Select[*tuple[Any, ...]]:
    query = select(*SHOWN).where(table.c.org_id == org_id)
    return query.ext(distinct_on(table.c.name)).order_by(table.c.name, table.c.version.desc())
