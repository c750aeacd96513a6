"""Reads in one round trip: as bound to their organisation as any transaction, and asked for together."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

import asyncpg
import pytest

from app.db.engines import connect
from app.db.execution_reader import TOGETHER, ExecutionReader
from app.db.tenancy import TenantReads
from app.db.urls import API
from app.domain.errors import NotFound
from tests.database import Database

ALL = "SELECT e.id, e.org_id FROM executions e WHERE e.org_id = bound.org_id ORDER BY e.id"
WHOEVERS = "SELECT e.id FROM executions e WHERE e.org_id = bound.org_id OR true"
COUNT = 3 * TOGETHER


@pytest.fixture
async def grown(database: Database) -> Database:
    """Two organisations with executions."""
    for org_id in ("org_a", "org_b"):
        await database.add_tenant(org_id)
        await database.execute(
            "INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, labels) "
            "SELECT n, n, $1, 'wf_' || $1, 1, 'user_' || $1, '{\"team\": \"sales\"}' "
            "  FROM (SELECT 'exec_' || $1 || '_' || g AS n FROM generate_series(1, $2::int) g) x",
            org_id, COUNT,
        )  # fmt: skip
    return database


class CountedReads(TenantReads):
    """Keeps the ids of each question; while `free` is clear, none is answered."""

    def __init__(self, url: str) -> None:
        super().__init__(partial(connect, url, "test"))
        self.asked: list[Sequence[str]] = []
        self.free = asyncio.Event()
        self.free.set()

    async def fetch(self, org_id: str, query: str, *arguments: object) -> Sequence[asyncpg.Record]:
        self.asked += [each for each in arguments if isinstance(each, list)]
        await self.free.wait()
        return await super().fetch(org_id, query, *arguments)


@pytest.fixture
async def reads(grown: Database) -> AsyncIterator[CountedReads]:
    opened = CountedReads(grown.role_url(API))
    yield opened
    await opened.close()


async def test_a_read_sees_the_rows_of_its_organisation_alone(reads):
    for org_id in ("org_a", "org_b", "org_a", "org_a", "org_b"):
        assert {row["org_id"] for row in await reads.fetch(org_id, ALL)} == {org_id}
        assert len(await reads.fetch(org_id, WHOEVERS)) == COUNT, "row-level security holds where the query does not"
    assert await reads.fetch("org_none", ALL) == []


async def test_nothing_of_a_read_stays_with_its_connection(grown):
    async with grown.connected(API) as connection:

        async def own() -> asyncpg.Connection:
            return connection

        reads = TenantReads(own, connections=1)
        assert len(await reads.fetch("org_a", ALL)) == COUNT
        assert await connection.fetchval("SELECT count(*) FROM executions") == 0


async def test_only_queries_that_depend_on_their_organisation_are_sent(reads):
    with pytest.raises(ValueError, match="organisation"):
        await reads.fetch("org_a", "SELECT id FROM executions")
    with pytest.raises(ValueError, match="organisation"):
        await reads.fetch("", ALL)


async def test_what_the_database_refuses_is_an_error_of_the_domain(reads):
    with pytest.raises(NotFound):
        await reads.fetch("org_a", "SELECT k.secret_hash FROM api_keys k WHERE k.org_id = bound.org_id")
    assert len(await reads.fetch("org_a", ALL)) == COUNT


async def test_a_crowd_asks_together_and_each_gets_his_own(reads):
    reader = ExecutionReader(reads)
    ids = [f"exec_org_a_{number}" for number in range(1, COUNT + 1)]
    rows = await asyncio.gather(*(reader.row("org_a", each) for each in ids))
    assert [row["id"] for row in rows] == ids
    assert {str(row["labels"]) for row in rows} == {"{'team': 'sales'}"}
    assert [len(ids) for ids in reads.asked] == [TOGETHER] * 3
    assert (reader._rows._gathering, reader._rows._asking) == ({}, {})


async def test_organisations_ask_apart_and_are_no_way_to_each_others_rows(reads):
    reader = ExecutionReader(reads)
    found = await asyncio.gather(
        reader.row("org_a", "exec_org_a_1"), reader.row("org_b", "exec_org_a_1"), reader.row("org_b", "exec_org_b_1")
    )
    assert [row and row["id"] for row in found] == ["exec_org_a_1", None, "exec_org_b_1"]
    assert sorted(map(list, reads.asked)) == [["exec_org_a_1"], ["exec_org_a_1", "exec_org_b_1"]]


async def test_who_asks_later_sees_what_was_committed_before(reads, grown):
    reader = ExecutionReader(reads)
    reads.free.clear()
    early = [asyncio.create_task(reader.row("org_a", "exec_org_a_1")) for _ in range(2)]
    while not reads.asked:
        await asyncio.sleep(0)
    others = [asyncio.create_task(reader.row("org_a", f"exec_org_a_{number}")) for number in range(2, TOGETHER + 2)]
    await grown.execute("UPDATE executions SET progress = 70 WHERE id = 'exec_org_a_1'")
    late = asyncio.create_task(reader.row("org_a", "exec_org_a_1"))
    reads.free.set()
    assert (await late)["progress"] == 70
    await asyncio.gather(*early, *others)


async def test_who_leaves_the_crowd_does_not_end_its_question(reads):
    reader = ExecutionReader(reads)
    leaving, staying = (asyncio.create_task(reader.row("org_a", "exec_org_a_1")) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying)["id"] == "exec_org_a_1"


async def test_ids_that_no_execution_can_have_are_not_asked_for(reads):
    reader = ExecutionReader(reads)
    for wild in ("exec\x00", "\ud800", "exec 1", "x" * 65, ""):
        assert await reader.row("org_a", wild) is None
        assert await reader.record("org_a", wild) is None
    assert reads.asked == []
