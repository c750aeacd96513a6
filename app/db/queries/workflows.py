"""Workflows and their versions within the tenant's scope. The counters are the recorder's to write.

The row of a removed workflow stays, emptied: it keeps the number of the last version. Compiled versions are kept in
memory by number, in every process, so a workflow made anew under the same id must never give out a number again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, and_, delete, exists, func, insert, literal, select, true, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import executions, workflow_versions
from app.db.tables import workflows as table

MEASURED_EXECUTIONS = 1_000

_REMOVED_NAME = ""
_NOW = func.clock_timestamp()
_VERSION = (
    workflow_versions.c.workflow_id,
    workflow_versions.c.version,
    workflow_versions.c.problems,
    workflow_versions.c.created_by,
    workflow_versions.c.created_at,
    (workflow_versions.c.version == table.c.published_version).is_(true()).label("published"),
)


@dataclass(frozen=True, slots=True)
class WorkflowFilter:
    """What a list is narrowed to: a part of the name in any case, and whether archived ones are in it."""

    name_part: str | None = None
    archived: bool = False


async def add(connection: AsyncConnection, org_id: str, workflow_id: str, values: dict[str, Any]) -> int | None:
    """Insert a workflow and return the number of its first version; None if the id is taken."""
    removed = delete(table).where(*_is(org_id, workflow_id), table.c.name == _REMOVED_NAME)
    used = await connection.scalar(removed.returning(table.c.latest_version))
    row = {"org_id": org_id, "id": workflow_id, "latest_version": (used or 0) + 1, **values}
    adding = upsert(table).values(**row).on_conflict_do_nothing().returning(table.c.latest_version)
    version: int | None = await connection.scalar(adding)
    return version


async def add_version(
    connection: AsyncConnection,
    org_id: str,
    workflow_id: str,
    version: int,
    *,
    definition: str,
    problems: str,
    created_by: str,
) -> None:
    """Insert an immutable version; the workflow's row is the caller's to move."""
    await connection.execute(
        insert(workflow_versions).values(
            org_id=org_id,
            workflow_id=workflow_id,
            version=version,
            definition=definition,
            problems=problems,
            created_by=created_by,
        )
    )


async def change(connection: AsyncConnection, org_id: str, workflow_id: str, values: dict[str, Any]) -> None:
    """Set columns of a workflow."""
    await connection.execute(update(table).where(*_is(org_id, workflow_id)).values(**values, updated_at=_NOW))


async def archive(connection: AsyncConnection, org_id: str, workflow_id: str) -> None:
    await connection.execute(update(table).where(*_is(org_id, workflow_id)).values(archived_at=_NOW, updated_at=_NOW))


async def remove(connection: AsyncConnection, org_id: str, workflow_id: str) -> bool:
    """Remove a workflow that no execution refers to; False, and nothing changed, if one does."""
    referring = exists().where(executions.c.org_id == org_id, executions.c.workflow_id == workflow_id)
    if await connection.scalar(select(referring)):
        return False
    versions = delete(workflow_versions).where(
        workflow_versions.c.org_id == org_id, workflow_versions.c.workflow_id == workflow_id
    )
    try:
        async with connection.begin_nested():
            await connection.execute(versions)
    except IntegrityError:
        # The first execution was accepted between the two statements.
        return False
    emptied = dict.fromkeys(("description", "project_id", "published_version"))
    values = emptied | {"name": _REMOVED_NAME, "archived_at": _NOW}
    await change(connection, org_id, workflow_id, values)
    return True


async def lock(connection: AsyncConnection, org_id: str, workflow_id: str) -> RowMapping | None:
    """Like `get`, and nobody else changes the workflow before the transaction's end."""
    # Two statements: the second sees what was committed while the first waited.
    await connection.execute(select(table.c.id).where(*_is(org_id, workflow_id)).with_for_update())
    return await get(connection, org_id, workflow_id)


async def get(connection: AsyncConnection, org_id: str, workflow_id: str) -> RowMapping | None:
    """A workflow with `definition` and `problems` of its latest version, both JSON texts."""
    latest = and_(_of_version(), workflow_versions.c.version == table.c.latest_version)
    query = (
        select(table, workflow_versions.c.definition, workflow_versions.c.problems)
        .join(workflow_versions, latest)
        .where(*_is(org_id, workflow_id))
    )
    return (await connection.execute(query)).mappings().first()


async def page(
    connection: AsyncConnection,
    org_id: str,
    wanted: WorkflowFilter,
    *,
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[RowMapping]:
    """Workflows whose (created_at, id) is less than `before`, the newest first."""
    conditions = [table.c.org_id == org_id, table.c.name != _REMOVED_NAME]
    if not wanted.archived:
        conditions.append(table.c.archived_at.is_(None))
    if wanted.name_part is not None:
        conditions.append(table.c.name.icontains(wanted.name_part, autoescape=True))
    if before is not None:
        conditions.append(tuple_(table.c.created_at, table.c.id) < _position(*before))
    query = select(table).where(*conditions).order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit)
    return (await connection.execute(query)).mappings().all()


async def versions_page(
    connection: AsyncConnection, org_id: str, workflow_id: str, *, before: int | None, limit: int
) -> Sequence[RowMapping]:
    """Versions with a number less than `before`, the newest first, without their definitions."""
    conditions = _is(org_id, workflow_id)
    if before is not None:
        conditions.append(workflow_versions.c.version < before)
    query = (
        select(*_VERSION)
        .join(table, _of_version())
        .where(*conditions)
        .order_by(workflow_versions.c.version.desc())
        .limit(limit)
    )
    return (await connection.execute(query)).mappings().all()


async def version(connection: AsyncConnection, org_id: str, workflow_id: str, number: int) -> RowMapping | None:
    """One version with its `definition`."""
    query = (
        select(*_VERSION, workflow_versions.c.definition)
        .join(table, _of_version())
        .where(*_is(org_id, workflow_id), workflow_versions.c.version == number)
    )
    return (await connection.execute(query)).mappings().first()


async def stats(connection: AsyncConnection, org_id: str, workflow_id: str) -> RowMapping | None:
    """The counters, and mean and 95th percentile of duration over the latest MEASURED_EXECUTIONS ended executions."""
    latest = (
        select(executions.c.duration_seconds)
        .where(
            executions.c.org_id == org_id,
            executions.c.workflow_id == workflow_id,
            executions.c.duration_seconds.is_not(None),
        )
        .order_by(executions.c.id.desc())
        .limit(MEASURED_EXECUTIONS)
        .subquery()
    )
    percentile = func.percentile_cont(0.95).within_group(latest.c.duration_seconds)
    durations = select(
        func.avg(latest.c.duration_seconds).label("average_duration_seconds"),
        percentile.label("p95_duration_seconds"),
    ).subquery()
    query = (
        select(table, durations).join(durations, true()).where(*_is(org_id, workflow_id), table.c.name != _REMOVED_NAME)
    )
    return (await connection.execute(query)).mappings().first()


def _is(org_id: str, workflow_id: str) -> list[Any]:
    return [table.c.org_id == org_id, table.c.id == workflow_id]


def _position(created_at: datetime, workflow_id: str) -> Any:
    return tuple_(literal(created_at, table.c.created_at.type), literal(workflow_id, table.c.id.type))


def _of_version() -> Any:
    return and_(workflow_versions.c.org_id == table.c.org_id, workflow_versions.c.workflow_id == table.c.id)
