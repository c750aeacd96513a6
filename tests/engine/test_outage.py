"""While the database is away runs wait; when it is back they go on, and nothing has happened twice."""

import asyncio

import asyncpg
import pytest

from app.db.accept_sql import ACCEPT
from app.db.claim_sql import CLAIM, LOOK, RELEASE, STRAYS
from app.db.queue import WITH_MAIL
from app.db.record_sql import FENCE
from app.db.urls import ENGINE
from app.db.workers import RENEW, RESCUE
from app.db.workflow_source import HEADS
from app.domain.errors import Unavailable
from app.domain.jsontext import decode
from app.domain.steps import Done, Effect
from tests.engine.harness import engine, eventually, save_workflow
from tests.engine.kit import Gate, Step, Wire, returning


def chain(length):
    """Each step adds its number to what came before: the output tells whether all of them counted once."""
    return [
        {
            "id": f"s{number}",
            "type": "add",
            "needs": [f"s{number - 1}"] if number else [],
            "with": {"sum": f"${{{{ steps.s{number - 1}.output }}}}" if number else 0, "n": number + 1},
        }
        for number in range(length)
    ]


async def add(context, config):
    context.log("adding")
    return Done(config["sum"] + config["n"])


async def cut(database):
    """Kill every connection of the engine."""
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test-engine' "
        "AND datname = current_database()"
    )


async def test_cut_off_again_and_again_every_run_still_comes_to_the_right_end(database, sink):
    """Every connection of the engine dies, over and over, while forty runs are under way."""
    async with engine(database, types={"add": sink.step(Effect.ONCE, then=add)}) as running:
        workflow = await save_workflow(database, *chain(5))
        ids = []
        for _ in range(40):
            async with asyncio.timeout(20):
                ids.append(await accepted(running, workflow))
        for cuts in range(12):
            before = await recorded(database)
            await cut(database)

            async def moved(before=before, cuts=cuts):
                return await recorded(database) > before or await ended(database) == len(ids)

            await eventually(moved, 30)
        for execution_id in ids:
            row = await running.finish(execution_id)
            assert (row["status"], decode(row["output"])) == ("COMPLETED", 15), row["error"]
            assert row["recoveries"] == 0
    effects = [(line["execution"], line["step"]) for line in sink.lines()]
    assert len(effects) == len(set(effects)) == 40 * 5


async def accepted(running, workflow):
    return await running.start(workflow)


async def recorded(database):
    return await database.fetchval("SELECT count(*) FROM execution_events")


async def ended(database):
    return await database.fetchval("SELECT count(*) FROM executions WHERE completed_at IS NOT NULL")


@pytest.mark.parametrize("after", [True, False], ids=["answers", "questions"])
async def test_every_kind_of_statement_may_be_lost(database, after):
    wire = Wire(database.role_url(ENGINE))
    async with engine(database, types={"add": Step(add)}, wire=wire.connect, lease_ttl=1.0) as running:
        kinds = (ACCEPT, LOOK, FENCE, RENEW, RESCUE, STRAYS, WITH_MAIL)
        faults = [wire.lose(kind, after=after, skip=skip) for kind in kinds for skip in (0, 2)]
        faults.append(wire.lose(CLAIM, after=after))
        if after:  # what was claimed without a word has strayed
            faults.append(wire.lose(RELEASE, after=after))
        workflow = await save_workflow(database, *chain(3))
        ids = [await running.start(workflow) for _ in range(5)]
        for execution_id in ids:
            row = await running.finish(execution_id)
            assert (row["status"], row["output"]) == ("COMPLETED", "6")

        async def all_hit():
            return all(fault.hits for fault in faults)

        await eventually(all_hit)
        assert (await running.run(*chain(2)))["output"] == "3"


async def test_a_step_that_ends_during_an_outage_is_recorded_after_it(database):
    gate, away = Gate(output="kept"), asyncio.Event()
    wire = Wire(database.role_url(ENGINE))

    async def connect():
        if away.is_set():
            raise ConnectionRefusedError
        return await wire.connect()

    async with engine(database, types={"gate": gate.step}, wire=connect) as running:
        execution_id = await running.submit({"id": "a", "type": "gate"})
        await gate.inside.wait()
        away.set()
        await cut(database)
        gate.free.set()

        async def refused():
            writers = running.recorder._writers
            return any(writer.commits._gathering or writer.link._lost_at > 0 for writer in writers)

        await eventually(refused)
        assert await running.step_statuses(execution_id) == {"a": "RUNNING"}
        away.clear()
        row = await running.finish(execution_id)
        assert (row["status"], row["output"]) == ("COMPLETED", '"kept"')


async def test_a_full_disk_holds_runs_up_and_refuses_new_ones(database):
    wire = Wire(database.role_url(ENGINE))
    async with engine(database, types={"add": Step(add)}, wire=wire.connect) as running:
        full = wire.lose(FENCE, after=False, times=3, error=asyncpg.DiskFullError)
        execution_id = await running.submit(*chain(3))
        await full.hit.wait()
        wire.lose(ACCEPT, after=False, times=2, error=asyncpg.DiskFullError)
        with pytest.raises(Unavailable) as refused:
            await running.submit(*chain(1))
        assert (refused.value.error_code, refused.value.retry_after) == ("storage_full", 30)
        row = await running.finish(execution_id)
        assert (row["status"], row["output"]) == ("COMPLETED", "6")
        assert full.hits == 3


@pytest.mark.parametrize("error", [asyncpg.DeadlockDetectedError, asyncpg.SerializationError])
@pytest.mark.parametrize("after", [True, False], ids=["after", "before"])
async def test_deadlocks_and_serialization_failures_cost_a_run_nothing(database, error, after):
    """Whether the statement had taken effect or not when it was said to have failed."""
    wire, retried = Wire(database.role_url(ENGINE)), (ACCEPT, LOOK, CLAIM, FENCE, RENEW, RESCUE)
    async with engine(database, types={"add": Step(add)}, wire=wire.connect, lease_ttl=1.0) as running:
        faults = [wire.lose(sql, after=after, error=error) for sql in retried]
        for execution_id in [await running.submit(*chain(3)) for _ in range(3)]:
            row = await running.finish(execution_id)
            assert (row["status"], row["output"], row["recoveries"]) == ("COMPLETED", "6", 0)

        async def all_hit():
            return all(fault.hits for fault in faults)

        await eventually(all_hit)


async def test_an_engine_that_is_idle_is_idle(database):
    """Nothing spins: with nothing to do there are a few statements a scan, and no more."""
    wire = Wire(database.role_url(ENGINE))
    async with engine(database, types={"add": returning()}, wire=wire.connect) as running:
        await running.run({"id": "a", "type": "add"})
        wire.sent.clear()

        async def three_scans():
            return wire.sent.count(WITH_MAIL) >= 4

        await eventually(three_scans)
        assert len(wire.sent) <= 4 * 7


async def test_nothing_is_left_when_an_engine_has_stopped(database):
    """Neither tasks nor connections, whether runs ended, sleep, or were cut off."""
    before = asyncio.all_tasks()
    gate = Gate()
    async with engine(database, types={"gate": gate.step}, drain_budget=0.0) as running:
        await running.run({"id": "a", "type": "start"})
        sleeping = await running.submit({"id": "a", "type": "delay", "with": {"duration": "1h"}})
        await running.until(sleeping, "WAITING")
        await running.submit({"id": "a", "type": "gate"})
        await gate.inside.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before

    async def none_left():
        mine = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return await database.fetchval(mine) == 0

    await eventually(none_left)


async def test_a_run_does_not_fail_because_its_sub_workflow_could_not_be_started_in_an_outage(database):
    """Neither what is asked before the start nor the start itself gets an answer, again and again."""
    wire = Wire(database.role_url(ENGINE))
    async with engine(database, wire=wire.connect) as running:
        child = await save_workflow(database, {"id": "a", "type": "end", "with": {"output": 7}})
        parent = await save_workflow(
            database,
            {"id": "first", "type": "delay", "with": {"duration": "10ms"}},
            {"id": "sub", "type": "workflow.run", "needs": ["first"], "with": {"workflow": child}},
            output="${{ steps.sub.output }}",
        )
        execution_id = await running.start(parent)
        # Both are asked again at once when an answer is lost: it takes more losses than that to come to the step.
        faults = [wire.lose(HEADS, after=False, times=3), wire.lose(ACCEPT, after=True, times=3)]
        row = await running.finish(execution_id)
        assert (row["status"], row["output"], row["error"]) == ("COMPLETED", "7", None)
        assert [fault.hits for fault in faults] == [3, 3]
        assert len(await running.children(execution_id)) == 1
