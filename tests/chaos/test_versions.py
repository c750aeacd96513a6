"""A newer version has migrated the database by adding to it: the older one goes on beside it, and starts anew.

A long chaos run can have a real other version: with `--chaos-beside=TREE`, a checkout of it, every other app is of it.
"""

from pathlib import Path

from tests.chaos.campaign import campaign
from tests.chaos.nemesis import Nemesis

TABLES = (
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
    "AND relname <> 'alembic_version'"
)
AFTERWARDS = ("kill", "stop", "lost answers", "freeze", "kill")


async def test_who_works_through_a_migration_that_only_adds_loses_nothing(tmp_path: Path) -> None:
    async with campaign(2, tmp_path) as versions:

        async def rage(nemesis: Nemesis) -> None:
            await nemesis.strike("kill")
            async with versions.deployment.postgres.connected() as connection:
                for row in await connection.fetch(TABLES):
                    await connection.execute(f"ALTER TABLE {row['relname']} ADD COLUMN told_later text DEFAULT ''")
                await connection.execute("CREATE TABLE later_things (id text PRIMARY KEY)")
                await connection.execute("UPDATE alembic_version SET version_num = '9999'")
            for fault in AFTERWARDS:
                await nemesis.strike(fault)

        await versions.run(rage)
        assert "newer version" in versions.deployment.apps[0].process.text + versions.deployment.apps[1].process.text
