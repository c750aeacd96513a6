"""Each role can do what its part of the product does, and nothing else."""

import asyncpg
import pytest

from app.db.engines import DriverConnection
from app.db.tables import metadata
from app.db.urls import API, AUTH, ENGINE, LOGINS
from tests.database import Database

APPENDED = " ".join(
    f"audit_logs.{column.name}" for column in metadata.tables["audit_logs"].c if column.name != "position"
)
"""Where a row of the audit log stands is not for who appends it to say."""
ALLOWED = {
    API: {
        "SELECT": """
            organizations memberships workflows workflow_versions executions execution_steps step_attempts
            execution_events execution_inbox execution_labels approvals audit_logs audit_seals usage_by_day day_budgets
            users.id users.email users.name users.token_version users.disabled users.created_at
            api_keys.id api_keys.org_id api_keys.user_id api_keys.name api_keys.scopes api_keys.expires_at
            api_keys.revoked_at api_keys.last_used_at api_keys.created_at
            secrets.org_id secrets.name secrets.version secrets.allowed_hosts secrets.last4 secrets.updated_at
            secrets.updated_by secrets.last_used_at""",
        "INSERT": f"workflows workflow_versions {APPENDED} execution_inbox api_keys day_budgets secrets",
        "UPDATE": """
            workflows.name workflows.description workflows.project_id workflows.latest_version
            workflows.published_version workflows.updated_at workflows.archived_at api_keys.revoked_at
            day_budgets""",
        "DELETE": "workflows workflow_versions day_budgets secrets",
        "TRUNCATE": "",
    },
    ENGINE: {
        "SELECT": """
            executions execution_steps step_attempts execution_events execution_inbox execution_labels idempotency_keys
            workers workflows workflow_versions refresh_tokens stream_tickets approvals result_cache
            usage_by_day day_budgets secrets audit_logs audit_seals organizations.id
            organizations.starts_minute organizations.starts""",
        "INSERT": f"""
            executions execution_steps step_attempts execution_events execution_inbox execution_labels idempotency_keys
            workers {APPENDED} audit_seals approvals result_cache usage_by_day""",
        "UPDATE": """
            organizations.starts_minute organizations.starts
            executions execution_steps workers approvals result_cache usage_by_day execution_inbox.applied_at
            execution_inbox.consumed_by secrets.wrapped_key secrets.key_id secrets.last_used_at
            workflows.execution_count workflows.success_count workflows.failure_count workflows.cancelled_count
            workflows.last_executed_at""",
        "DELETE": "execution_inbox result_cache idempotency_keys workers stream_tickets refresh_tokens",
        "TRUNCATE": "",
    },
    AUTH: {
        "SELECT": "organizations users memberships api_keys refresh_tokens stream_tickets",
        "INSERT": f"organizations users memberships refresh_tokens stream_tickets {APPENDED}",
        "UPDATE": "users.password_hash users.token_version api_keys.last_used_at refresh_tokens",
        "DELETE": "refresh_tokens stream_tickets",
        "TRUNCATE": "",
    },
}
# Each touches no row, so that only the privilege decides.
BY_COLUMN = {
    "INSERT": 'INSERT INTO {table} ("{column}") SELECT (NULL::{table})."{column}" WHERE false',
    "SELECT": 'SELECT "{column}" FROM {table} WHERE false',
    "UPDATE": 'UPDATE {table} SET "{column}" = DEFAULT WHERE false',
}
BY_TABLE = {
    "DELETE": "DELETE FROM {table} WHERE false",
    "TRUNCATE": "TRUNCATE {table}",
}


async def is_allowed(connection: DriverConnection, statement: str) -> bool:
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    finally:
        await transaction.rollback()
    return True


async def actual(connection: DriverConnection, verb: str) -> set[str]:
    """`table` where the verb is allowed on all of it, else `table.column` for each column where it is."""
    found: set[str] = set()
    for name, table in metadata.tables.items():
        if verb in BY_TABLE:
            found |= {name} if await is_allowed(connection, BY_TABLE[verb].format(table=name)) else set()
            continue
        columns = [column.name for column in table.c]
        allowed = [
            f"{name}.{column}"
            for column in columns
            if await is_allowed(connection, BY_COLUMN[verb].format(table=name, column=column))
        ]
        found |= {name} if len(allowed) == len(columns) else set(allowed)
    return found


@pytest.mark.parametrize("role", LOGINS)
async def test_a_role_has_exactly_its_privileges(database: Database, role: str) -> None:
    async with database.connected(role) as connection:
        found = {verb: await actual(connection, verb) for verb in ALLOWED[role]}
    assert found == {verb: set(tables.split()) for verb, tables in ALLOWED[role].items()}


@pytest.mark.parametrize("role", LOGINS)
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id int)",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "ALTER TABLE executions DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE executions DISABLE TRIGGER ALL",
        "DROP POLICY org ON executions",
        "SET ROLE stepstream_owner",
        "SET session_replication_role = replica",
        "UPDATE alembic_version SET version_num = 'x'",
    ],
)
async def test_no_role_can_change_what_protects_the_tables(database: Database, role: str, statement: str) -> None:
    async with database.connected(role) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_nobody_else_gets_into_the_database(database: Database) -> None:
    stranger = f"stranger_{database.name}"
    await database.execute(f"CREATE ROLE {stranger}")
    try:
        allowed = await database.fetchval(
            "SELECT ARRAY[has_database_privilege($1, current_database(), 'CONNECT'), "
            "has_database_privilege($1, current_database(), 'TEMPORARY'), has_schema_privilege($1, 'public', 'USAGE')]",
            stranger,
        )
    finally:
        await database.execute(f"DROP ROLE {stranger}")
    assert allowed == [False, False, False]
