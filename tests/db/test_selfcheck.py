"""The start is refused whenever something would let a tenant out of its organisation, whoever put it there."""

import pytest

from app.db import selfcheck
from app.db.migrate import SchemaOutdated, known_revisions
from app.db.selfcheck import RULES, SelfCheckError, violations
from app.db.urls import API, ENGINE, LOGINS, with_login
from app.domain.errors import Unavailable
from tests.database import Database

PLANTED = [
    ("M1", "CREATE TABLE planted (org_id text)", "table planted"),
    ("M1", "CREATE TABLE planted (org_id text) PARTITION BY LIST (org_id)", "table planted"),
    ("M1", "ALTER TABLE executions NO FORCE ROW LEVEL SECURITY", "table executions"),
    ("M1", "ALTER TABLE users DISABLE ROW LEVEL SECURITY", "table users"),
    ("M1", "ALTER TABLE organizations NO FORCE ROW LEVEL SECURITY", "table organizations"),
    ("M2", "CREATE VIEW planted AS SELECT * FROM executions", "view planted"),
    ("M2", "CREATE VIEW planted WITH (security_invoker = off) AS SELECT * FROM executions", "view planted"),
    ("M2", "CREATE SCHEMA s; GRANT USAGE ON SCHEMA s TO PUBLIC; CREATE VIEW s.planted AS SELECT 1", "view s.planted"),
    ("M3", "CREATE MATERIALIZED VIEW planted AS SELECT * FROM executions", "materialized view planted"),
    ("M3", "CREATE FUNCTION planted() RETURNS int LANGUAGE sql SECURITY DEFINER RETURN 1", "function planted()"),
    (
        "M4",
        "ALTER TABLE execution_steps ADD CONSTRAINT planted FOREIGN KEY (execution_id) REFERENCES executions (id)",
        "foreign key planted of execution_steps",
    ),
    (
        "M4",
        """CREATE UNIQUE INDEX ids ON executions (id, org_id);
        ALTER TABLE execution_steps ADD CONSTRAINT planted
        FOREIGN KEY (org_id, execution_id) REFERENCES executions (id, org_id)""",
        "foreign key planted of execution_steps",
    ),
    ("M5", "CREATE UNIQUE INDEX planted ON workflows (name)", "unique index planted"),
    ("M5", "CREATE UNIQUE INDEX planted ON workflows (name, org_id)", "unique index planted"),
    ("M5", "CREATE UNIQUE INDEX planted ON workflows (lower(name))", "unique index planted"),
    ("M5", "ALTER TABLE idempotency_keys ADD CONSTRAINT planted UNIQUE (key)", "unique index planted"),
    ("M6", "ALTER ROLE stepstream_api SUPERUSER", "role stepstream_api is a superuser"),
    ("M6", "ALTER ROLE stepstream_engine BYPASSRLS", "role stepstream_engine is above row-level security"),
    ("M6", "ALTER ROLE stepstream_auth INHERIT", "role stepstream_auth is inheriting"),
    ("M6", "ALTER ROLE stepstream_owner LOGIN CREATEDB", "stepstream_owner is allowed to create databases, allowed to"),
    ("M7", "GRANT stepstream_owner TO stepstream_api", "role stepstream_api is a member of stepstream_owner"),
    ("M7", "GRANT pg_read_all_data TO stepstream_auth", "role stepstream_auth is a member of pg_read_all_data"),
    ("M7", "ALTER TABLE workflows OWNER TO stepstream_api", "role stepstream_api owns table workflows"),
    ("M7", "CREATE SCHEMA planted AUTHORIZATION stepstream_engine", "role stepstream_engine owns schema planted"),
    ("M8", "CREATE POLICY planted ON executions TO stepstream_api USING (true)", "policy planted of executions"),
    ("M8", "CREATE POLICY planted ON executions FOR SELECT USING (true)", "policy planted of executions"),
    (
        "M8",
        "CREATE POLICY planted ON executions TO stepstream_api USING (org_id = current_setting('app.org_id', true))",
        "policy planted of executions",
    ),
    (
        "M8",
        """ALTER POLICY org ON executions
        USING (org_id = NULLIF(current_setting('app.org_id', true), '') OR status = 'PENDING')""",
        "policy org of executions",
    ),
    ("M8", "ALTER POLICY org ON executions WITH CHECK (true)", "policy org of executions"),
    ("M8", "ALTER POLICY org ON users USING (EXISTS (SELECT FROM memberships))", "policy org of users"),
]
HARMLESS = [
    "CREATE VIEW fine WITH (security_invoker = true) AS SELECT * FROM executions",
    "CREATE SCHEMA s; CREATE VIEW s.reports AS SELECT * FROM executions",
    "CREATE TABLE fine (id text PRIMARY KEY)",
    "CREATE POLICY narrower ON executions AS RESTRICTIVE TO stepstream_api USING (status <> 'PENDING')",
    "CREATE UNIQUE INDEX fine ON workflows (org_id, name)",
]


@pytest.mark.parametrize(("rule", "planted", "finding"), PLANTED)
async def test_a_rule_finds_what_breaks_it(database: Database, rule: str, planted: str, finding: str) -> None:
    async with database.connected() as connection:
        assert await violations(connection, rule) == []
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(planted)
        found = await violations(connection, rule)
        await transaction.rollback()
    assert len(found) == 1, found
    assert found[0].startswith(f"{rule}: ")
    assert finding in found[0]


@pytest.mark.parametrize("addition", HARMLESS)
async def test_no_rule_minds_what_is_harmless(database: Database, addition: str) -> None:
    await database.execute(addition)
    async with database.connected() as connection:
        assert [found for rule in RULES for found in await violations(connection, rule)] == []


def test_every_rule_is_shown_to_find_something() -> None:
    assert {rule for rule, _, _ in PLANTED} == set(RULES)


async def test_everything_wrong_is_said_at_once(database: Database) -> None:
    await database.execute("CREATE TABLE planted (org_id text); CREATE VIEW leaking AS SELECT * FROM executions")
    urls = database.role_urls() | {
        API: database.admin_url,
        ENGINE: with_login(database.admin_url, ENGINE, "not the password"),
    }
    with pytest.raises(SelfCheckError) as caught:
        await selfcheck.check(urls)
    api, *catalogue, engine = caught.value.findings
    assert api == f"The URL for {API} acts as postgres: let it log in as {API}"
    assert [each[:4] for each in catalogue] == ["M1: ", "M2: "]
    assert engine.startswith(f"{ENGINE} cannot log in (password authentication failed")
    assert "not the password" not in caught.value.detail


async def test_lax_durability_is_a_warning(database: Database) -> None:
    await database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = off")
    warnings = await selfcheck.check(database.role_urls())
    assert "The server runs with synchronous_commit=off: a crash can lose executions that were answered" in "".join(
        warnings
    )


async def test_a_newer_schema_that_only_added_something_serves_with_a_warning(database: Database) -> None:
    head, _ = known_revisions()
    mark = "COMMENT ON TABLE alembic_version IS 'Serves versions of Stepstream from revision {} on'"
    await database.execute(f"UPDATE alembic_version SET version_num = '9999'; {mark.format(head)}")
    (warning,) = [said for said in await selfcheck.check(database.role_urls()) if "9999" in said]
    assert "newer version" in warning
    await database.execute(mark.format("9999"))
    with pytest.raises(SchemaOutdated, match="does not know"):
        await selfcheck.check(database.role_urls())


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("UPDATE alembic_version SET version_num = '0001'", "at revision 0001 and needs .*stepstream migrate"),
        (
            "UPDATE alembic_version SET version_num = '9999'; COMMENT ON TABLE alembic_version IS NULL",
            "at revision 9999, which this version .* does not know",
        ),
        ("DELETE FROM alembic_version", "not migrated.*stepstream migrate"),
        ("DROP TABLE alembic_version", "not migrated.*stepstream migrate"),
        ("REVOKE ALL ON alembic_version FROM stepstream_api", "not migrated, or not completely"),
    ],
)
async def test_another_schema_is_refused_with_what_to_run(database: Database, state: str, advice: str) -> None:
    await database.execute(state)
    with pytest.raises(SchemaOutdated, match=advice):
        await selfcheck.check(database.role_urls())


async def test_a_database_that_is_not_there_is_unavailable_and_one_that_is_unknown_a_finding(
    database: Database,
) -> None:
    away = dict.fromkeys(LOGINS, "postgresql://somebody:secret@/nowhere?host=/nonexistent")
    with pytest.raises(Unavailable):
        await selfcheck.check(away)
    unknown = {role: url.replace(database.name, "unknown") for role, url in database.role_urls().items()}
    with pytest.raises(SelfCheckError, match='database "unknown" does not exist'):
        await selfcheck.check(unknown)
