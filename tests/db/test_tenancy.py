"""No tenant sees, writes or guesses another's rows, whatever the query says and whatever it was granted."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engines import DriverConnection, api_engine
from app.db.tables import api_keys, executions, metadata, organizations, users, workflows
from app.db.tenancy import Tenancy
from app.db.urls import API, AUTH, ENGINE
from app.domain.errors import Conflict, NotFound
from tests.database import Database
from tests.db.rows import TENANT_TABLES, fill, insert, rows_of

A, B = "org_a", "org_b"
# Whose row it is, by table; every other table has org_id.
WHOSE = {"organizations": "id", "users": "replace(id, 'user_', '')"}


def whose(table: str) -> str:
    return WHOSE.get(table, "org_id")


@pytest.fixture
async def tenants(database: Database) -> Database:
    """A database where both organisations have a row in every table."""
    await fill(database, A)
    await fill(database, B)
    return database


@pytest.fixture
async def careless(tenants: Database) -> AsyncIterator[DriverConnection]:
    """A connection of the api role in a database where it was granted everything: only row-level security is left."""
    await tenants.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {API}")
    async with tenants.connected(API) as connection:
        yield connection


@pytest.fixture
async def engine(tenants: Database) -> AsyncIterator[AsyncEngine]:
    opened = api_engine(tenants.role_url(API), pool_size=1)
    yield opened
    await opened.dispose()


async def bind(connection: DriverConnection, org: str) -> None:
    await connection.execute("SELECT set_config('app.org_id', $1, true)", org)


async def run_bound(connection: DriverConnection, org: str, statement: str, *values: object) -> None:
    async with connection.transaction():
        await bind(connection, org)
        await connection.execute(statement, *values)


async def owners(connection: DriverConnection, table: str) -> set[str]:
    return {row[0] for row in await connection.fetch(f"SELECT {whose(table)} FROM {table}")}


async def test_every_table_is_in_the_matrix() -> None:
    assert set(TENANT_TABLES) == set(rows_of(A)) == set(metadata.tables) - {"workers"}
    assert {name for name, table in metadata.tables.items() if "org_id" in table.c} <= set(TENANT_TABLES)


async def test_a_bound_transaction_sees_its_own_rows_only(careless: DriverConnection) -> None:
    async with careless.transaction():
        await bind(careless, A)
        assert {table: await owners(careless, table) for table in TENANT_TABLES} == {
            table: {A} for table in TENANT_TABLES
        }


async def test_an_unbound_transaction_sees_nothing_neither_before_nor_after_a_bound_one(
    careless: DriverConnection,
) -> None:
    nothing: dict[str, set[str]] = {table: set() for table in TENANT_TABLES}
    assert {table: await owners(careless, table) for table in TENANT_TABLES} == nothing
    async with careless.transaction():
        await bind(careless, A)
    assert {table: await owners(careless, table) for table in TENANT_TABLES} == nothing
    assert await careless.fetchval("SELECT current_setting('app.org_id', true)") == ""


@pytest.mark.parametrize("org", ["org_unknown", "", "org_a' OR 'x' = 'x", "%", "*"])
async def test_no_odd_binding_opens_anything(careless: DriverConnection, org: str) -> None:
    async with careless.transaction():
        await bind(careless, org)
        assert {table for table in TENANT_TABLES if await owners(careless, table)} == set()


@pytest.mark.parametrize("table", TENANT_TABLES)
async def test_no_row_is_inserted_for_another(careless: DriverConnection, table: str) -> None:
    statement, values = insert(table, rows_of(B)[table])
    for binding in (A, ""):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await run_bound(careless, binding, statement, *values)


async def test_no_row_of_another_is_changed_deleted_or_locked(careless: DriverConnection, tenants: Database) -> None:
    for table in reversed(TENANT_TABLES):
        column = next(iter(metadata.tables[table].c)).name
        async with careless.transaction():
            await bind(careless, A)
            foreign = f"{whose(table)} = '{B}'"
            assert await careless.execute(f"UPDATE {table} SET {column} = {column} WHERE {foreign}") == "UPDATE 0"
            assert await careless.execute(f"DELETE FROM {table} WHERE {foreign}") == "DELETE 0"
            assert await careless.fetch(f"SELECT 1 FROM {table} WHERE {foreign} FOR UPDATE") == []
        assert await tenants.fetchval(f"SELECT count(*) FROM {table} WHERE {foreign}") == 1


async def test_no_row_is_given_away(careless: DriverConnection) -> None:
    for table in TENANT_TABLES:
        if "org_id" not in metadata.tables[table].c:
            continue
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await run_bound(careless, A, f"UPDATE {table} SET org_id = '{B}'")


async def test_no_row_can_point_to_anothers(tenants: Database) -> None:
    """Not even for who is above row-level security: the foreign keys themselves join the organisation."""
    for table, column in (("executions", "workflow_id"), ("execution_inbox", "execution_id"), ("api_keys", "user_id")):
        row = dict(rows_of(A)[table]) | {column: rows_of(B)[table][column], "id": "other"}
        statement, values = insert(table, row)
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await tenants.execute(statement, *values)


async def test_engine_and_auth_see_every_tenant_and_the_owner_none(tenants: Database) -> None:
    async with tenants.connected(ENGINE) as connection:
        assert await owners(connection, "executions") == {A, B}
    async with tenants.connected(AUTH) as connection:
        assert await owners(connection, "api_keys") == {A, B}
        assert await owners(connection, "users") == {A, B}
    async with tenants.connected() as connection:
        await connection.execute("SET ROLE stepstream_owner")
        assert {table for table in TENANT_TABLES if await owners(connection, table)} == set()


async def test_each_pooled_transaction_is_bound_to_its_own_organisation(engine: AsyncEngine) -> None:
    tenancy = Tenancy(engine)
    for org in (A, B, A, A, B):
        async with tenancy.transaction(org) as connection:
            assert (await connection.execute(select(executions.c.org_id))).scalars().all() == [org]
            assert (await connection.execute(select(users.c.id))).scalars().all() == [f"user_{org}"]
            assert (await connection.execute(select(organizations.c.id))).scalars().all() == [org]
        async with engine.connect() as unbound:
            assert (await unbound.execute(select(executions.c.id))).all() == []


async def test_the_policy_is_answered_by_an_index(tenants: Database) -> None:
    async with tenants.connected(API) as connection, connection.transaction():
        await bind(connection, A)
        await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        plan = await connection.fetch("EXPLAIN SELECT id FROM executions WHERE id < 'x' ORDER BY id DESC LIMIT 50")
    text_of_plan = "\n".join(row[0] for row in plan)
    assert "ix_executions_org_id_id" in text_of_plan
    assert "Index Cond: ((org_id = NULLIF(current_setting('app.org_id'::text, true), ''::text))" in text_of_plan


async def test_a_savepoint_rolled_back_leaves_the_binding(engine: AsyncEngine) -> None:
    async with Tenancy(engine).transaction(A) as connection:
        savepoint = await connection.begin_nested()
        await connection.execute(text("SELECT set_config('app.org_id', 'org_b', true)"))
        await savepoint.rollback()
        assert (await connection.execute(select(executions.c.org_id))).scalars().all() == [A]


async def test_a_transaction_commits_at_its_end_and_rolls_back_on_an_error(engine: AsyncEngine) -> None:
    tenancy = Tenancy(engine)
    rename = update(workflows).values(name="Renamed")

    async def fail_after_renaming() -> None:
        async with tenancy.transaction(A) as connection:
            await connection.execute(rename)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_after_renaming()
    async with tenancy.transaction(A) as connection:
        assert (await connection.execute(select(workflows.c.name))).scalar_one() == "Workflow"
        await connection.execute(rename)
    async with tenancy.transaction(A) as connection:
        assert (await connection.execute(select(workflows.c.name))).scalar_one() == "Renamed"
    async with tenancy.transaction(B) as connection:
        assert (await connection.execute(select(workflows.c.name))).scalar_one() == "Workflow"


async def test_without_an_organisation_no_transaction_begins(engine: AsyncEngine) -> None:
    with pytest.raises(ValueError, match="organisation"):
        async with Tenancy(engine).transaction(""):
            pytest.fail("it began")


async def test_what_the_database_refuses_leaves_as_an_error_of_the_domain(engine: AsyncEngine) -> None:
    tenancy = Tenancy(engine)
    with pytest.raises(NotFound):
        async with tenancy.transaction(A) as connection:
            await connection.execute(select(api_keys.c.secret_hash))
    with pytest.raises(Conflict) as caught:
        async with tenancy.transaction(A) as connection:
            await connection.execute(workflows.insert().values(org_id=A, id=f"wf_{A}", name="Twin", latest_version=1))
    assert caught.value.error_code == "already_exists"
