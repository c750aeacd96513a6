"""A history is made of whole runs, and a turn whose rows are missing does not count."""

import pytest

from app.bench.history import multiply
from app.bench.ledger import Ledger, WrongRows
from app.bench.shapes import THREE_STEPS
from app.db.invariants import examine
from tests.engine.harness import ORG, engine

COPIES = 7
RUNS = 2


@pytest.fixture
async def ledger(database):
    await database.add_tenant(ORG)
    async with database.connected() as connection:
        yield Ledger(database.admin_url, connection)


async def run(database):
    async with engine(database) as running:
        for _ in range(RUNS):
            row = await running.run(*THREE_STEPS.document()["steps"])
    return row["id"]


async def test_copies_of_a_run_are_runs_that_keep_every_rule(database, ledger):
    original = await run(database)
    await multiply(ledger, original, COPIES)
    for table in ("executions", "execution_steps", "step_attempts", "execution_events", "audit_logs"):
        of_one = {"executions": 1, "execution_events": 12, "audit_logs": 2}.get(table, 3)
        assert await database.fetchval(f"SELECT count(*) FROM {table}") == (RUNS + COPIES) * of_one, table
    assert await database.fetchval("SELECT max(id) FROM executions") == original
    broken = [verdict.rule.name for verdict in await examine(ledger.connection) if verdict.count or verdict.unknown]
    assert not broken


@pytest.mark.parametrize(
    "lost",
    [
        "DELETE FROM execution_events WHERE execution_id = $1 AND seq = 5",
        "DELETE FROM step_attempts WHERE execution_id = $1 AND path = 's1_0'",
        "DELETE FROM execution_steps WHERE execution_id = $1 AND path = 's1_0'",
        "DELETE FROM audit_logs WHERE resource_id = $1",
        "UPDATE workflows SET success_count = 0 WHERE id = (SELECT workflow_id FROM executions WHERE id = $1)",
    ],
)
async def test_one_lost_row_voids_a_turn(database, ledger, lost):
    mark = await ledger.mark()
    execution_id = await run(database)
    await ledger.check(mark, THREE_STEPS, RUNS)
    await ledger.connection.execute("SET session_replication_role = replica")
    await ledger.connection.execute(lost, execution_id)
    with pytest.raises(WrongRows):
        await ledger.check(mark, THREE_STEPS, RUNS)


async def test_more_runs_than_were_asked_for_void_a_turn_too(database, ledger):
    mark = await ledger.mark()
    await run(database)
    with pytest.raises(WrongRows, match="2 instead of 1"):
        await ledger.check(mark, THREE_STEPS, RUNS - 1)
