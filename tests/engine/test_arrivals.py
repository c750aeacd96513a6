"""What is accepted where nobody waits begins there without a claim; it overtakes nobody and nobody loses it."""

import asyncio

import pytest

from app.db.accept_sql import ACCEPT
from app.db.claim_sql import CLAIM, STRAYS
from app.db.urls import ENGINE
from app.engine.ports import Accepted
from tests.engine.harness import engine, eventually, new_execution, save_workflow
from tests.engine.kit import Gate, Wire, returning


async def idle(running):
    """Wait until a claim has found that nobody waits."""

    async def looked():
        return not running.orchestrator._somebody_may_wait

    await eventually(looked)


@pytest.fixture
async def workflow(database):
    return await save_workflow(database, {"id": "a", "type": "test"})


async def test_it_begins_without_a_claim(database, workflow):
    wire = Wire(database.role_url(ENGINE))
    async with engine(database, types={"test": returning("done")}, wire=wire.connect) as running:
        await idle(running)
        wire.sent.clear()
        row = await running.finish(await running.start(workflow))
        assert (row["status"], row["lease_epoch"], row["write_no"] > 0) == ("COMPLETED", 1, True)
        assert CLAIM not in wire.sent


async def test_it_overtakes_nobody(database, workflow):
    """Whoever waits for a slot goes first, though one is free at the moment that another one comes."""
    gate = Gate()
    async with engine(database, types={"test": gate.step}, max_running=1) as running:
        await idle(running)
        first = await running.start(workflow)
        await gate.inside.wait()
        waiting = await running.start(workflow)
        assert (await running.row(waiting))["owner"] is None
        gate.free.set()
        last = await running.start(workflow)
        rows = [await running.finish(each) for each in (first, waiting, last)]
        begun = [row["started_at"] for row in rows]
        assert begun == sorted(begun)


@pytest.mark.parametrize(
    "changes",
    [{"max_running_per_user": 5}, {"max_running": 1}],
    ids=["a limit of slots", "no room"],
)
async def test_where_slots_are_given_by_claims_it_waits_for_one(database, workflow, changes):
    gate = Gate()
    async with engine(database, types={"test": gate.step}, **changes) as running:
        first = await running.start(workflow)
        await gate.inside.wait()
        second = new_execution(workflow)
        assert await running.orchestrator.accept(second) == Accepted((await running.row(second.id))["created_at"])
        gate.free.set()
        for execution_id in (first, second.id):
            assert (await running.finish(execution_id))["status"] == "COMPLETED"


async def test_a_search_for_strays_leaves_alone_what_has_just_arrived(database, workflow):
    """The search began before it was accepted, and sees it owned."""
    wire, gate = Wire(database.role_url(ENGINE)), Gate()
    async with engine(database, types={"test": gate.step}, wire=wire.connect) as running:
        await idle(running)
        held = wire.hold(STRAYS)
        await held.hit.wait()
        execution_id = await running.start(workflow)
        await gate.inside.wait()
        held.released.set()
        searched = wire.hold(STRAYS)
        await searched.hit.wait()
        searched.released.set()
        row = await running.row(execution_id)
        assert (row["owner"], row["lease_epoch"]) == (running.orchestrator._leases.worker_id, 1)
        gate.free.set()
        assert (await running.finish(execution_id))["lease_epoch"] == 1


async def test_who_leaves_before_the_answer_leaves_an_execution_that_runs(database, workflow):
    wire = Wire(database.role_url(ENGINE))
    async with engine(database, types={"test": returning("done")}, wire=wire.connect) as running:
        await idle(running)
        held = wire.hold(ACCEPT)
        new = new_execution(workflow)
        leaving = asyncio.ensure_future(running.orchestrator.accept(new))
        await held.hit.wait()
        leaving.cancel()
        await asyncio.wait([leaving])
        held.released.set()

        async def there():
            return await database.fetchval("SELECT count(*) FROM executions WHERE id = $1", new.id)

        await eventually(there)
        assert (await running.finish(new.id))["status"] == "COMPLETED"


async def test_a_lost_answer_delays_it_and_no_more(database, workflow):
    wire = Wire(database.role_url(ENGINE))
    async with engine(database, types={"test": returning("done")}, wire=wire.connect) as running:
        await idle(running)
        fault = wire.lose(ACCEPT, after=True)
        row = await running.finish(await running.start(workflow))
        assert fault.hits == 1
        assert (row["status"], row["lease_epoch"], row["recoveries"]) == ("COMPLETED", 2, 0)


async def test_if_its_process_dies_another_one_takes_it(database, workflow):
    gate = Gate()
    async with engine(database, types={"test": gate.step}) as dying:
        await idle(dying)
        execution_id = await dying.start(workflow)
        await gate.inside.wait()
        await dying.crash()
        async with engine(database, types={"test": returning("done")}) as other:
            row = await other.finish(execution_id)
    assert (row["status"], row["lease_epoch"], row["output"]) == ("COMPLETED", 2, '"done"')
