"""Waits: short ones are sat out, long ones hold nothing, and whoever is there when they end goes on."""

import asyncio

from app.domain.definition import RetryPolicy
from app.domain.errors import StepError
from app.domain.steps import Done, Effect, Sleep
from tests.engine.harness import engine, eventually, save_workflow
from tests.engine.kit import Gate, Step

LONG = {"id": "a", "type": "delay", "with": {"duration": "1h"}}


async def make_due(database, execution_id):
    await database.execute("UPDATE executions SET wake_at = now() WHERE id = $1", execution_id)
    await database.execute(
        "UPDATE execution_steps SET wake_at = now() WHERE execution_id = $1 AND wake_at IS NOT NULL", execution_id
    )


async def test_a_short_delay_is_sat_out(running):
    row = await running.run({"id": "a", "type": "delay", "with": {"duration": "50ms"}})
    assert (row["status"], row["output"]) == ("COMPLETED", '{"seconds":0.05}')
    assert row["duration_seconds"] >= 0.05
    assert "execution_waiting" not in await running.event_types(row["id"])
    assert row["lease_epoch"] == 1


async def test_a_long_delay_gives_up_the_lease_and_the_memory(running):
    execution_id = await running.submit(LONG)
    row = await running.until(execution_id, "WAITING")
    assert row["owner"] is None
    assert (row["wake_at"] - row["started_at"]).total_seconds() > 3599
    assert (row["status_reason"], row["error"]) == ("waiting_for_delay", None)
    assert await running.step_statuses(execution_id) == {"a": "WAITING"}

    async def gone():
        return running.orchestrator.running == 0

    await eventually(gone)
    assert running.orchestrator._drivers == {}


async def test_it_wakes_in_another_process(database):
    async with engine(database) as first:
        execution_id = await first.submit(LONG, {"id": "b", "type": "log", "needs": ["a"], "with": {"message": "x"}})
        await first.until(execution_id, "WAITING")
    async with engine(database) as second:
        await make_due(database, execution_id)
        row = await second.finish(execution_id)
        assert (row["status"], row["lease_epoch"]) == ("COMPLETED", 2)
        assert await second.event_types(execution_id) == [
            "execution_queued", "execution_started", "step_started", "step_waiting", "execution_waiting",
            "execution_resumed", "step_completed", "step_started", "step_log", "step_completed", "execution_completed",
        ]  # fmt: skip


async def test_a_delay_of_just_over_a_second_sleeps_and_wakes(running):
    row = await running.run({"id": "a", "type": "delay", "with": {"duration": "1100ms"}})
    assert len(await running.events(row["id"], "execution_waiting")) == 1
    assert (row["status"], row["lease_epoch"]) == ("COMPLETED", 2)
    assert row["duration_seconds"] >= 1.1


async def test_a_long_backoff_sleeps_too_and_keeps_count(database):
    tried = []

    async def attempt(context, config):
        tried.append(context.attempt)
        if context.attempt == 1:
            raise StepError("not yet")
        return Done(context.attempt)

    hour = RetryPolicy(max_attempts=2, initial_interval=3600.0, max_interval=3600.0, jitter="none")
    types = {"test": Step(attempt, retry=hour)}
    async with engine(database, types=types) as first:
        execution_id = await first.submit({"id": "a", "type": "test"})
        row = await first.until(execution_id, "WAITING")
        assert row["status_reason"] == "waiting_for_retry"
    async with engine(database, types=types) as second:
        await make_due(database, execution_id)
        assert (await second.finish(execution_id))["output"] == "2"
    assert tried == [1, 2]


async def test_while_another_branch_runs_a_delay_does_not_suspend_the_run(database):
    free, inside = asyncio.Event(), asyncio.Event()

    async def attempt(context, config):
        inside.set()
        await free.wait()
        return Done()

    async with engine(database, types={"test": Step(attempt)}) as running:
        execution_id = await running.submit(LONG, {"id": "b", "type": "test"})
        await inside.wait()
        assert await running.status(execution_id) == "RUNNING"
        free.set()
        await running.until(execution_id, "WAITING")
        await running.cancel(execution_id)
        await running.finish(execution_id)


async def test_a_thousand_sleepers_hold_nothing(database):
    async with engine(database) as running:
        workflow = await save_workflow(database, LONG)
        ids = await asyncio.gather(*(running.start(workflow) for _ in range(300)))

        async def asleep():
            return await database.fetchval("SELECT count(*) FROM executions WHERE status = 'WAITING'") == len(ids)

        await eventually(asleep)
        assert await database.fetchval("SELECT count(*) FROM executions WHERE owner IS NOT NULL") == 0
        await database.execute("UPDATE executions SET wake_at = now()")
        await database.execute("UPDATE execution_steps SET wake_at = now()")

        async def awake():
            return await database.fetchval("SELECT count(*) FROM executions WHERE status = 'COMPLETED'") == len(ids)

        await eventually(awake)


async def test_who_woke_goes_before_who_is_new(database):
    """A sleeper competes again when it wakes, but has waited long enough."""
    order = []

    async def note(context, config):
        order.append(config["n"])
        return Done()

    async with engine(database, types={"note": Step(note)}) as running:
        sleeper = await save_workflow(database, LONG, {"id": "b", "type": "note", "needs": ["a"], "with": {"n": "old"}})
        execution_id = await running.start(sleeper)
        await running.until(execution_id, "WAITING")
    gate = Gate()
    async with engine(database, types={"note": Step(note), "gate": gate.step}, max_running=1) as busy:
        first = await busy.submit({"id": "a", "type": "gate"})
        await gate.inside.wait()
        later = await busy.start(
            await save_workflow(database, {"id": "a", "type": "note", "with": {"n": "new"}}), priority=99
        )
        await make_due(database, execution_id)
        gate.free.set()
        for each in (execution_id, later, first):
            await busy.finish(each)
    assert order == ["old", "new"]


async def test_any_pure_step_may_ask_to_sleep_for_as_long_as_it_likes(database):
    async def attempt(context, config):
        return Sleep(float("inf"), "far")

    async with engine(database, types={"test": Step(attempt, Effect.PURE)}) as running:
        execution_id = await running.submit({"id": "a", "type": "test"})
        row = await running.until(execution_id, "WAITING")
        assert (row["wake_at"] - row["started_at"]).days == 366
