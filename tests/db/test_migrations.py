"""Any login that may, any number of times, at any moment: afterwards the database is what this version needs."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from sqlalchemy import Connection

from app.db import migrate as migrations
from app.db import selfcheck
from app.db.engines import api_engine, connect
from app.db.migrate import (
    SchemaOutdated,
    alembic_config,
    known_revisions,
    migrate,
    migration_connection,
    script_location,
)
from app.db.provision import ProvisionError, provision, scram_verifier
from app.db.tables import metadata
from app.db.urls import API, AUTH, ENGINE, LOGINS, OWNER, with_login
from app.domain.errors import Unavailable
from tests.database import Database, Server, embedded_server, password_for
from tests.db.rows import insert, rows_of

ROOT = Path(__file__).parents[2]
ALL = ["0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011"]

# What a schema consists of, apart from CHECKs and triggers, which only migrations make.
SCHEMA = """
SELECT format('%s.%s %s %s%s default %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
              CASE WHEN a.attcollation = '"C"'::regcollation THEN 'bytewise ' END,
              CASE WHEN a.attnotnull THEN 'not null' END, pg_get_expr(d.adbin, d.adrelid))
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'alembic_version'
UNION ALL SELECT format('%s with %s', relname, reloptions) FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
UNION ALL SELECT format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND contype IN ('f', 'p', 'u') AND conrelid <> 'alembic_version'::regclass
"""


@pytest.fixture(scope="module")
async def other_server() -> AsyncIterator[Server]:
    async with embedded_server() as running:
        yield running


@pytest.fixture
async def bare_server(other_server: Server) -> AsyncIterator[Server]:
    """A server that has never seen us: none of our roles exists."""
    yield other_server
    for role in [*LOGINS, OWNER, "migrator"]:
        await other_server.connection.execute(f"DROP ROLE IF EXISTS {role}")


async def create_login(server: Server, name: str, attributes: str = "") -> None:
    await server.connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'migrating' {attributes}")


async def make_roles(server: Server, password: str | None = None) -> None:
    """What a DBA would do beforehand."""
    async with server.database() as database, database.connected() as connection:
        await provision(connection, lambda role: password or password_for(role))


def as_login(database: Database, name: str) -> str:
    return with_login(database.admin_url, name, "migrating")


async def test_an_empty_database_of_a_new_server_gets_everything_once(bare_server: Server) -> None:
    async with bare_server.database() as database:
        assert await migrate(database.admin_url, password_for) == ALL
        assert await selfcheck.check(database.role_urls()) == []
        assert await migrate(database.admin_url, password_for) == []
        assert await selfcheck.check(database.role_urls()) == []


async def test_migrators_of_one_database_wait_for_each_other(bare_server: Server) -> None:
    async with bare_server.database() as database:
        applied = await asyncio.gather(*(migrate(database.admin_url, password_for) for _ in range(4)))
        assert sorted(applied) == [[], [], [], ALL]


async def test_migrators_of_several_databases_share_the_roles(bare_server: Server) -> None:
    async with bare_server.database() as one, bare_server.database() as two, bare_server.database() as three:
        databases = (one, two, three)
        applied = await asyncio.gather(*(migrate(database.admin_url, password_for) for database in databases * 2))
        assert sorted(applied) == [[], [], [], ALL, ALL, ALL]
        for database in databases:
            assert await selfcheck.check(database.role_urls()) == []


async def test_a_login_that_owns_the_database_and_may_create_roles_suffices(bare_server: Server) -> None:
    await create_login(bare_server, "migrator", "CREATEROLE")
    async with bare_server.database(owner="migrator") as database:
        assert await migrate(as_login(database, "migrator"), password_for) == ALL
        assert await migrate(as_login(database, "migrator"), password_for) == []
        assert await selfcheck.check(database.role_urls()) == []
        owners = await database.fetch("SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname = 'public'")
        assert [row[0] for row in owners] == [OWNER]


async def test_a_login_that_only_owns_the_database_suffices_once_a_dba_has_made_the_roles(bare_server: Server) -> None:
    await make_roles(bare_server)
    await create_login(bare_server, "migrator")
    await bare_server.connection.execute(f"GRANT {OWNER} TO migrator")
    async with bare_server.database(owner="migrator") as database:
        assert await migrate(as_login(database, "migrator"), lambda _: None) == ALL
        assert await selfcheck.check(database.role_urls()) == []


async def test_a_login_that_may_not_is_told_what_to_do(bare_server: Server) -> None:
    await create_login(bare_server, "migrator")
    async with bare_server.database(owner="migrator") as database:
        with pytest.raises(ProvisionError, match=r"may not run `CREATE ROLE stepstream_owner NOLOGIN`"):
            await migrate(as_login(database, "migrator"), password_for)
        await make_roles(bare_server)
        with pytest.raises(ProvisionError, match=r"may not run `ALTER ROLE stepstream_api PASSWORD …`"):
            await migrate(as_login(database, "migrator"), password_for)
        with pytest.raises(ProvisionError, match="may not run `GRANT stepstream_owner TO CURRENT_USER"):
            await migrate(as_login(database, "migrator"), lambda _: None)
    async with bare_server.database() as database:
        await database.execute(f"GRANT {OWNER} TO migrator")
        with pytest.raises(ProvisionError, match="migrator of DATABASE_URL cannot open the database"):
            await migrate(as_login(database, "migrator"), lambda _: None)


async def test_the_roles_are_corrected_and_their_settings_hold(bare_server: Server) -> None:
    async with bare_server.database() as database:
        await make_roles(bare_server, "an old one")
        await database.execute(f"ALTER ROLE {API} SUPERUSER BYPASSRLS INHERIT CREATEDB; ALTER ROLE {OWNER} LOGIN")
        await database.execute(f"ALTER ROLE {ENGINE} SET statement_timeout = '1h'; ALTER ROLE {AUTH} NOLOGIN")
        await migrate(database.admin_url, password_for)
        assert await selfcheck.check(database.role_urls()) == []
        settings = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "jit")
        found = {}
        for role in LOGINS:
            async with database.connected(role) as connection:
                found[role] = [await connection.fetchval(f"SHOW {name}") for name in settings]
    assert found == {
        API: ["15s", "3s", "10s", "off"],
        ENGINE: ["1min", "0", "10s", "off"],
        AUTH: ["15s", "0", "10s", "off"],
    }


async def test_only_the_password_logs_in_and_the_server_never_sees_it(bare_server: Server) -> None:
    async with bare_server.database() as database:
        await migrate(database.admin_url, password_for)
        stored = await database.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", API)
        assert stored.startswith("SCRAM-SHA-256$4096:")
        assert password_for(API) not in stored
        with pytest.raises(asyncpg.InvalidPasswordError):
            await connect(with_login(database.admin_url, API, "wrong"), "test")
        await migrate(database.admin_url, lambda _: None)
        assert await database.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", API) == stored
    assert scram_verifier("same") != scram_verifier("same")


async def test_a_migration_does_not_wait_long_for_a_lock(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "_LOCK_TIMEOUT", "20ms")
    await downgrade(database, "0001")
    async with database.connected() as reader:
        async with reader.transaction():
            await reader.execute("LOCK TABLE executions IN ACCESS SHARE MODE")
            with pytest.raises(Unavailable) as caught:
                await migrate(database.admin_url, password_for)
    assert caught.value.error_code == "database_busy"
    assert await migrate(database.admin_url, password_for) == ALL[1:]


async def test_a_database_ahead_of_this_version_is_left_alone(database: Database) -> None:
    await database.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaOutdated, match=r"'9999'.*or a newer one"):
        await migrate(database.admin_url, password_for)
    assert await database.fetchval("SELECT version_num FROM alembic_version") == "9999"


async def test_the_schema_says_which_versions_it_serves(database: Database) -> None:
    """The migrations behind 0004 only add; the mark of a database that has none begins with what it was before."""
    marked = "SELECT obj_description('alembic_version'::regclass, 'pg_class')"
    mark = "Serves versions of Stepstream from revision 0004 on"
    assert await database.fetchval(marked) == mark
    await downgrade(database, "0004")
    await database.execute("COMMENT ON TABLE alembic_version IS NULL")
    assert await migrate(database.admin_url, password_for) == ALL[4:]
    assert await database.fetchval(marked) == mark


async def test_what_was_labelled_before_is_listed_by_its_labels(bare_server: Server) -> None:
    await create_login(bare_server, "migrator", "CREATEROLE")
    async with bare_server.database(owner="migrator") as database:
        await migrate(as_login(database, "migrator"), password_for)
        await downgrade(database, "0010")
        await database.add_tenant("org_a")
        labelled = rows_of("org_a")["executions"] | {"labels": '{"team": "sales", "n": "1"}'}
        statement, arguments = insert("executions", labelled)
        await database.execute(statement, *arguments)
        assert await migrate(as_login(database, "migrator"), password_for) == ["0011"]
        listed = await database.fetch("SELECT key, value, execution_id FROM execution_labels ORDER BY key")
        assert [tuple(row) for row in listed] == [("n", "1", "exec_org_a"), ("team", "sales", "exec_org_a")]


async def downgrade(database: Database, revision: str) -> None:
    def run(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)

    async with migration_connection(database.admin_url, password_for) as connection:
        await connection.run_sync(run)


async def test_down_leaves_nothing_and_up_again_works(database: Database) -> None:
    await downgrade(database, "base")
    assert [row[0] for row in await database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")] == [
        "alembic_version"
    ]
    assert await database.fetch("SELECT 1 FROM pg_proc WHERE pronamespace = 'public'::regnamespace") == []
    assert await migrate(database.admin_url, password_for) == ALL
    await selfcheck.check(database.role_urls())


async def test_the_migrated_schema_is_that_of_the_tables(database: Database, server: Server) -> None:
    async with server.database() as declared:
        engine = api_engine(declared.admin_url, pool_size=1)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await engine.dispose()
        await declared.execute("CREATE TABLE alembic_version ()")
        wanted = {row[0] for row in await declared.fetch(SCHEMA)}
    assert {row[0] for row in await database.fetch(SCHEMA)} == wanted


async def test_alembic_works_from_the_command_line_in_several_processes_at_once(server: Server, template: str) -> None:
    """The template has brought the roles' passwords; the command line leaves them alone."""
    async with server.database() as database:
        upgrade = ["upgrade", "head"]
        for runs in ([upgrade, upgrade, upgrade], [["check"]]):
            done = [asyncio.to_thread(run_alembic, arguments, database.admin_url) for arguments in runs]
            for process in await asyncio.gather(*done):
                assert process.returncode == 0, process.stderr
        await selfcheck.check(database.role_urls())


def run_alembic(arguments: list[str], url: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_migrations_are_found_in_the_repository_and_in_an_installed_package(tmp_path: Path) -> None:
    assert script_location() == ROOT / "migrations"
    assert known_revisions() == (ALL[-1], frozenset(ALL))
    package = tmp_path / "site-packages" / "app"
    (package / "migrations").mkdir(parents=True)
    # Another project's directory of the same name beside the package is not ours.
    (package.parent / "migrations").mkdir()
    (package / "migrations" / "env.py").touch()
    assert script_location(package) == package / "migrations"
