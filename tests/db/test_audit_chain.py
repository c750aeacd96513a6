"""The audit log is chained as it grows, by one sealer at a time, and whatever is changed in it afterwards is found."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256

import asyncpg
import pytest

from app.db import audit_chain
from app.db.audit_chain import ROW_COLUMNS, SEAL, Verification
from app.db.audit_sealer import LOCK, SETUP, AuditSealer
from app.db.engines import connect
from app.db.migrate import migrate
from app.db.urls import ENGINE
from app.domain.audit_chain import BEGINNING, Broken, Head
from app.domain.errors import Unavailable
from tests.database import Database, password_for
from tests.db.test_migrations import downgrade
from tests.engine.kit import Wire

ORG = "org_a"
WRITE = "INSERT INTO audit_logs (id, org_id, action, success) VALUES ($1, $2, 'user.login', true)"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
async def log(database: Database) -> Database:
    for org in (ORG, "org_b"):
        await database.add_tenant(org)
    return database


async def write(database: Database, *audit_ids: str, org: str = ORG) -> None:
    for audit_id in audit_ids:
        await database.execute(WRITE, audit_id, org)


@asynccontextmanager
async def sealer(database: Database, wire: Wire | None = None) -> AsyncIterator[AuditSealer]:
    made = AuditSealer(wire.connect if wire else partial(connect, database.role_url(ENGINE), "test-sealer"))
    try:
        yield made
    finally:
        await made.close()


async def verified(database: Database, after: Head = BEGINNING, org: str = ORG) -> Verification:
    async with database.connected(ENGINE) as connection:
        return await audit_chain.verify(connection.fetch, org, after)


async def seal(database: Database, sealer: AuditSealer, org: str = ORG) -> Verification:
    """Rounds until all is sealed: other tests' transactions hold it up for a moment."""
    async with asyncio.timeout(20):
        while True:
            await sealer.seal()
            found = await verified(database, org=org)
            if found.unsealed == 0 or found.broken is not None:
                return found


async def go_on(sealer: AuditSealer) -> None:
    async with asyncio.timeout(20):
        while True:
            await sealer.seal()


@pytest.fixture
async def sealed(log: Database) -> Database:
    """Three seals, of the rows 1 to 3, 4 and 5, 6."""
    async with sealer(log) as sealing:
        for batch in (("r1", "r2", "r3"), ("r4", "r5"), ("r6",)):
            await write(log, *batch)
            await seal(log, sealing)
    return log


async def test_a_chain_is_what_its_description_says(sealed: Database) -> None:
    """Recomputed here from the rows alone, by the words of the description."""

    def text(value: object) -> bytes:
        if value is None:
            return b"-,"
        if isinstance(value, datetime):
            value = (value - EPOCH) // timedelta(microseconds=1)
        raw = (str(value).lower() if isinstance(value, bool) else str(value)).encode()
        return str(len(raw)).encode() + b":" + raw + b","

    await sealed.execute("UPDATE audit_logs SET user_agent = 'Größe 🙂'")
    await sealed.execute("DELETE FROM audit_seals")
    async with sealer(sealed) as sealing:
        await seal(sealed, sealing)
    rows = await sealed.fetch("SELECT * FROM audit_logs ORDER BY position")
    (found,) = await sealed.fetch("SELECT * FROM audit_seals")
    digests = b"".join(sha256(b"".join(text(row[name]) for name in ROW_COLUMNS)).digest() for row in rows)
    said = [ORG, 1, rows[-1]["position"], found["sealed_at"], *(row["id"] for row in rows)]
    assert set(ROW_COLUMNS) == set(rows[0].keys())
    assert found["hash"] == sha256(b"".join(map(text, said)) + digests).digest()
    assert (found["size"], found["audit_ids"]) == (6, ["r1", "r2", "r3", "r4", "r5", "r6"])


async def test_each_organisation_has_its_chain(sealed: Database) -> None:
    await write(sealed, "s1", org="org_b")
    async with sealer(sealed) as sealing:
        found = await seal(sealed, sealing, org="org_b")
    assert (found.seals, found.rows, found.broken, found.complete) == (1, 1, None, True)
    found = await verified(sealed)
    assert (found.seals, found.rows, found.broken, found.complete, found.unsealed) == (3, 6, None, True, 0)


async def test_the_very_first_row_is_sealed_by_who_was_there_before_it(log: Database) -> None:
    async with sealer(log) as sealing:
        for _ in range(3):
            await sealing.seal()
        await write(log, "r1")
        assert (await seal(log, sealing)).rows == 1


async def test_rows_that_are_committed_late_are_neither_skipped_nor_overtaken(log: Database) -> None:
    async with sealer(log) as sealing, log.connected() as late:
        transaction = late.transaction()
        await transaction.start()
        await late.execute(WRITE, "early", ORG)
        await write(log, "after")
        for _ in range(4):
            await sealing.seal()
        found = await verified(log)
        assert (found.seals, found.unsealed) == (0, 1)
        await transaction.commit()
        await seal(log, sealing)
    assert [row["audit_ids"] for row in await log.fetch("SELECT audit_ids FROM audit_seals")] == [["early", "after"]]


async def test_what_is_rolled_back_leaves_a_gap_that_nobody_minds(log: Database) -> None:
    async with log.connected() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(WRITE, "undone", ORG)
        await transaction.rollback()
    await write(log, "done")
    async with sealer(log) as sealing:
        assert (await seal(log, sealing)).rows == 1


async def test_one_of_several_seals_and_the_next_takes_over(log: Database) -> None:
    async with sealer(log) as first, sealer(log) as second:
        await write(log, "r1")
        await seal(log, first)
        await write(log, "r2")
        for _ in range(4):
            await second.seal()
        assert (await verified(log)).unsealed == 1
        await first.close()
        assert (await seal(log, second)).seals == 2


async def test_a_sealer_that_stands_still_loses_the_lock(log: Database) -> None:
    async with sealer(log) as sealing:
        await sealing.seal()
        limit = await sealing._link.fetch("SHOW idle_session_timeout")
        inside = await sealing._link.fetch("SHOW idle_in_transaction_session_timeout")
    assert (limit[0][0], inside[0][0]) == ("15s", "5s")


async def test_who_has_lost_the_lock_cannot_fork_the_chain(log: Database) -> None:
    """The first believes that it seals: its seal is made and not yet committed when the second makes one."""
    await write(log, "r1", "r2")
    async with log.connected(ENGINE) as first, log.connected(ENGINE) as second:
        transaction = first.transaction()
        await transaction.start()
        await first.fetch(SEAL, "", 1_000)
        forking = asyncio.create_task(second.fetch(SEAL, "", 1_000))
        while not await log.fetchval("SELECT cardinality(pg_blocking_pids($1))", second.get_server_pid()):
            assert not forking.done()
        await transaction.commit()
        with pytest.raises(asyncpg.UniqueViolationError):
            await forking
    found = await verified(log)
    assert (found.seals, found.rows, found.broken) == (1, 2, None)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("statement", [LOCK, SEAL])
async def test_a_sealer_that_is_cut_off_anywhere_leaves_a_sound_chain(
    log: Database, statement: str, after: bool
) -> None:
    wire = Wire(log.role_url(ENGINE))
    fault = wire.lose(statement, after=after)
    await write(log, "r1", "r2")
    async with sealer(log, wire) as dying, sealer(log) as next_one:
        with pytest.raises(Unavailable):
            await go_on(dying)
        assert fault.hits == 1
        found = await seal(log, next_one)
    assert (found.seals, found.rows, found.broken) == (1, 2, None)


async def test_a_seal_takes_the_next_rows_from_the_index_however_many_wait(log: Database) -> None:
    """Nothing is known yet of a table that has just been filled: that must not make it sort all of them each time."""
    await log.execute(
        "INSERT INTO audit_logs (id, org_id, action, success) "
        "SELECT 'audit_' || n, $1, 'user.login', true FROM generate_series(1, 5000) n", ORG,
    )  # fmt: skip
    async with log.connected(ENGINE) as connection:
        await connection.execute(SETUP)
        await connection.execute(f"PREPARE sealing(text, bigint) AS {SEAL}")
        plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN EXECUTE sealing('', 5000)"))
    assert "Index Scan using ix_audit_logs_org_id_position" in plan
    assert "Sort" not in plan


async def test_many_organisations_are_sealed_in_one_round(log: Database) -> None:
    await log.execute("INSERT INTO organizations (id, name) SELECT 'org_' || n, 'x' FROM generate_series(1, 234) n")
    await log.execute(
        "INSERT INTO audit_logs (id, org_id, action, success) SELECT 'audit_' || id, id, 'x', true FROM organizations"
    )
    async with sealer(log) as sealing:
        await seal(log, sealing)
    assert await log.fetchval("SELECT count(*) FROM audit_seals") == 236


async def test_a_long_log_is_sealed_in_parts_and_verified_piece_by_piece(log: Database) -> None:
    await log.execute(
        "INSERT INTO audit_logs (id, org_id, action, success) "
        "SELECT 'audit_' || n, $1, 'user.login', true FROM generate_series(1, 21234) n", ORG,
    )  # fmt: skip
    async with sealer(log) as sealing:
        first = await seal(log, sealing)
    assert (first.seals, first.rows, first.complete, first.unsealed) == (20, 20_000, False, 0)
    rest = await verified(log, Head.named(str(first.head)))
    assert (rest.seals, rest.rows, rest.complete, rest.unsealed) == (2, 1234, True, 0)
    end = await verified(log, rest.head)
    assert (end.seals, end.rows, end.complete, str(end.head)) == (0, 0, True, str(rest.head))


TAMPERING: list[tuple[str, Broken]] = [
    ("UPDATE audit_logs SET details = '{\"a\":1}' WHERE id = 'r4'", Broken("row_altered", 2, "r4")),
    ("UPDATE audit_logs SET user_id = '' WHERE id = 'r4'", Broken("row_altered", 2, "r4")),
    ("UPDATE audit_logs SET success = false WHERE id = 'r6'", Broken("row_altered", 3, "r6")),
    ("UPDATE audit_logs SET timestamp = timestamp + interval '1 us' WHERE id = 'r1'", Broken("row_altered", 1, "r1")),
    ("DELETE FROM audit_logs WHERE id = 'r2'", Broken("row_missing", 1, "r2")),
    ("DELETE FROM audit_logs WHERE id = 'r6'", Broken("row_missing", 3, "r6")),
    ("DELETE FROM audit_logs", Broken("row_missing", 1, "r1")),
    ("UPDATE audit_logs SET org_id = 'org_b' WHERE id = 'r5'", Broken("row_missing", 2, "r5")),
    ("UPDATE audit_logs SET position = position + 1000 WHERE id = 'r3'", Broken("row_missing", 1, "r3")),
    ("UPDATE audit_logs SET id = 'x' WHERE id = 'r3'", Broken("row_inserted", 1, "x")),
    (
        """UPDATE audit_logs a SET position = b.position FROM audit_logs b
            WHERE (a.id, b.id) IN (('r1', 'r2'), ('r2', 'r1'))""",
        Broken("row_missing", 1, "r1"),
    ),
    (
        """INSERT INTO audit_logs (id, org_id, action, success, position)
           SELECT 'x', org_id, action, success, position FROM audit_logs WHERE id = 'r2'""",
        Broken("row_inserted", 1, "x"),
    ),
    (
        """INSERT INTO audit_logs (id, org_id, action, success, position)
           SELECT 'x', org_id, action, success, position FROM audit_logs WHERE id = 'r6'""",
        Broken("row_inserted", 3, "x"),
    ),
    ("UPDATE audit_seals SET hash = sha256(hash) WHERE seq = 2", Broken("seal_altered", 2)),
    ("UPDATE audit_seals SET hash = sha256(hash) WHERE seq = 3", Broken("seal_altered", 3)),
    ("UPDATE audit_seals SET digests = digests || digests WHERE seq = 1", Broken("seal_altered", 1)),
    ("UPDATE audit_seals SET audit_ids = '{r5,r4}' WHERE seq = 2", Broken("seal_altered", 2)),
    ("UPDATE audit_seals SET upto = upto + 1 WHERE seq = 3", Broken("seal_altered", 3)),
    ("UPDATE audit_seals SET sealed_at = sealed_at - interval '1 day' WHERE seq = 2", Broken("seal_altered", 2)),
    ("DELETE FROM audit_seals WHERE seq = 1", Broken("seal_missing", 1)),
    ("DELETE FROM audit_seals WHERE seq = 2", Broken("seal_missing", 2)),
    (
        "DELETE FROM audit_seals WHERE seq = 2; UPDATE audit_seals SET seq = 2 WHERE seq = 3",
        Broken("seal_altered", 2),
    ),
    (
        """DELETE FROM audit_logs WHERE id IN ('r4', 'r5'); DELETE FROM audit_seals WHERE seq = 2;
           UPDATE audit_seals SET seq = 2 WHERE seq = 3""",
        Broken("seal_altered", 2),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "broken"), TAMPERING)
async def test_whatever_is_changed_is_found_where_it_is(sealed: Database, change: str, broken: Broken) -> None:
    await sealed.execute(change)
    found = await verified(sealed)
    assert found.broken == broken
    assert found.seals == broken.seal - 1


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM audit_seals WHERE seq = 3",
        "DELETE FROM audit_seals WHERE seq = 3; DELETE FROM audit_logs WHERE id = 'r6'",
        "DELETE FROM audit_seals; UPDATE audit_logs SET details = '{}' WHERE id = 'r2'",
        "DELETE FROM audit_seals; DELETE FROM audit_logs",
    ],
)
async def test_a_head_that_was_kept_shows_that_the_end_was_cut_off_or_all_rewritten(
    sealed: Database, change: str
) -> None:
    """Consistent by itself, as who may do anything can make it; the head tells that it is another chain."""
    kept = str((await verified(sealed)).head)
    assert (await verified(sealed, Head.named(kept))).broken is None
    await sealed.execute(change)
    await write(sealed, "r7")
    async with sealer(sealed) as sealing:
        assert (await seal(sealed, sealing)).broken is None
    assert (await verified(sealed, Head.named(kept))).broken == Broken("head_unknown", 3)


async def test_what_was_there_before_the_chain_is_sealed_too(database: Database) -> None:
    await downgrade(database, "0005")
    await database.add_tenant(ORG)
    await write(database, "r1", "r2", "r3")
    await migrate(database.admin_url, password_for)
    await write(database, "r4")
    async with sealer(database) as sealing:
        assert (await seal(database, sealing)).rows == 4
    (row,) = await database.fetch("SELECT audit_ids FROM audit_seals")
    assert row["audit_ids"] == ["r1", "r2", "r3", "r4"]
