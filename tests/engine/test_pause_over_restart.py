"""A pause outlives every process: what was paused stays so, and a pause asked for while nobody lived is obeyed."""

from datetime import timedelta
from typing import Any

from app.domain.jsontext import decode, encode
from tests.database import Database
from tests.engine.harness import engine, eventually, save_workflow
from tests.engine.kit import Sink, returning
from tests.engine.worker import worker

WAIT = {"id": "wait", "type": "wait_for_signal", "with": {"signal": "go", "timeout": "10m"}}
NAP = {"id": "nap", "type": "delay", "with": {"duration": "10m"}}


def then(step_type: str, after: str) -> dict[str, Any]:
    return {"id": "then", "type": step_type, "needs": [after]}


async def pass_hours(database: Database, execution_id: str) -> None:
    """As if the run had been paused two hours ago, and all its time limits were over by now."""
    control = decode(await database.fetchval("SELECT control FROM executions WHERE id = $1", execution_id))
    since = (await database.fetchval("SELECT now()") - timedelta(hours=2)).isoformat()
    control["pause"]["since"] = since
    await database.execute(
        "UPDATE executions SET control = $2, deadline_at = now() - interval '1 hour' WHERE id = $1",
        execution_id, encode(control),
    )  # fmt: skip
    await database.execute(
        "UPDATE execution_steps SET wake_at = now() - interval '1 hour 55 minutes' WHERE execution_id = $1 "
        "AND wake_at IS NOT NULL", execution_id,
    )  # fmt: skip


async def test_paused_before_and_after_with_its_time_limits_frozen(database: Database, sink: Sink) -> None:
    async with worker(database, sink) as process, engine(database, max_running=0) as asker:
        workflow = await save_workflow(database, WAIT, then("sink", "wait"), timeout="1h")
        execution_id = await asker.start(workflow)
        await asker.until(execution_id, "WAITING")
        await asker.send(execution_id, "pause", {"reason": "lunch"})
        await asker.until(execution_id, "PAUSED")
        process.kill()
        await process.wait()
    await pass_hours(database, execution_id)
    async with engine(database, types={"sink": sink.step()}) as second:
        await second.send(execution_id, "signal", 1, topic="go")
        await second.until_read(execution_id)
        await second.run({"id": "other", "type": "start"})
        row = await second.row(execution_id)
        assert (row["status"], row["status_message"], sink.lines()) == ("PAUSED", "lunch", [])
        await second.send(execution_id, "resume")
        row = await second.finish(execution_id)
        assert (row["status"], [line["step"] for line in sink.lines()]) == ("COMPLETED", ["then"])
        assert row["deadline_at"] - row["completed_at"] > timedelta(minutes=50)


async def test_resumed_by_nobody_alive_it_goes_on_with_the_time_it_had_left(database: Database, sink: Sink) -> None:
    async with worker(database, sink) as process, engine(database, max_running=0) as asker:
        execution_id = await asker.start(await save_workflow(database, WAIT, timeout="1h"))
        await asker.until(execution_id, "WAITING")
        await asker.send(execution_id, "pause")
        await asker.until(execution_id, "PAUSED")
        process.kill()
        await process.wait()
        await pass_hours(database, execution_id)
        await asker.send(execution_id, "resume")
    async with engine(database) as second:
        await second.until(execution_id, "WAITING")
        wait = (await second.steps(execution_id))["wait"]
        left = wait["wake_at"] - await database.fetchval("SELECT now()")
        assert timedelta(minutes=4) < left < timedelta(minutes=6)
        await second.send(execution_id, "signal", topic="go")
        assert (await second.finish(execution_id))["status"] == "COMPLETED"


async def test_a_pause_stored_while_nobody_lived_comes_before_all_else(database: Database, sink: Sink) -> None:
    """One that has not begun, some whose wait is over, and one that was cut off in a step."""
    async with worker(database, sink) as process, engine(database, max_running=0) as asker:
        nap = await save_workflow(database, NAP, then("sink", "nap"))
        sleepers = [await asker.start(nap) for _ in range(10)]
        cut_off = await asker.start(await save_workflow(database, {"id": "stuck", "type": "hang"}))
        for sleeper in sleepers:
            await asker.until(sleeper, "WAITING")

        async def inside() -> list[Any]:
            return sink.lines("stuck")

        await eventually(inside)
        process.kill()
        await process.wait()
        fresh = await asker.start(await save_workflow(database, {"id": "then", "type": "sink"}))
        await database.execute("UPDATE execution_steps SET wake_at = now() WHERE wake_at IS NOT NULL")
        await database.execute("UPDATE executions SET wake_at = now() WHERE wake_at IS NOT NULL")
        everybody = [*sleepers, cut_off, fresh]
        for execution_id in everybody:
            await asker.send(execution_id, "pause")
    async with engine(database, types={"sink": sink.step(), "hang": sink.step(then=returning().run)}) as second:
        for execution_id in everybody:
            await second.until(execution_id, "PAUSED")
        assert [line["step"] for line in sink.lines()] == ["stuck"]
        for execution_id in everybody:
            await second.send(execution_id, "resume")
        for execution_id in everybody:
            assert (await second.finish(execution_id))["status"] == "COMPLETED"
    assert sorted(line["step"] for line in sink.lines()) == ["stuck"] * 2 + ["then"] * 11
