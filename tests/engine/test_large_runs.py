"""Runs as large as they may be: results right and in order, and a killed process costs only what was unfinished."""

import json
from collections import Counter
from typing import Any

from app.domain.steps import Effect
from tests.database import Database
from tests.engine.harness import engine, eventually, save_workflow
from tests.engine.kit import Sink, Step
from tests.engine.worker import counted, echo, worker

STEPS, LANES = 500, 5
ITEMS = 10_000
WINDOW = 100


def many(effect: str) -> dict[str, Any]:
    return {
        "id": "m", "type": effect, "for_each": "${{ input }}", "max_parallel": WINDOW,
        "with": {"value": "${{ item }}"},
    }  # fmt: skip


def lines_of(sink: Sink) -> Counter[str]:
    return Counter(line["step"] for line in sink.lines())


async def completed(database: Database, path: str) -> int:
    sql = "SELECT count(*) FROM execution_steps WHERE starts_with(path, $1) AND status = 'COMPLETED'"
    return int(await database.fetchval(sql, path))


async def test_five_hundred_steps_come_to_the_right_end_though_the_process_is_killed(
    database: Database, sink: Sink
) -> None:
    """Each step adds one to what the one before it said: the output tells whether all of them counted once."""
    steps = [
        {
            "id": f"s{n}", "type": "count", "needs": [f"s{n - LANES}"] if n >= LANES else [],
            "with": {"n": f"${{{{ steps.s{n - LANES}.output + 1 }}}}" if n >= LANES else 1},
        }
        for n in range(STEPS)
    ]  # fmt: skip

    async with worker(database, sink) as process, engine(database, max_running=0) as idle:
        execution_id = await idle.submit(*steps)

        async def half_done() -> bool:
            return await completed(database, "s") > STEPS // 2

        await eventually(half_done, 60)
        process.kill()
        await process.wait()
    done = await completed(database, "s")
    assert done < STEPS
    async with engine(database, types={"count": sink.fast(counted)}) as second:
        row = await second.finish(execution_id, 60)
        assert (row["status"], row["progress"]) == ("COMPLETED", 100)
        assert json.loads(row["output"]) == {f"s{n}": STEPS // LANES for n in range(STEPS - LANES, STEPS)}
        started = [int(event["step_id"][1:]) for event in await second.events(execution_id, "step_started")]
        for lane in range(LANES):
            assert [n for n in started if n % LANES == lane] == [*range(lane, STEPS, LANES)]
    runs = lines_of(sink)
    assert len(runs) == STEPS
    assert runs.total() <= STEPS + LANES, "only the steps under way were repeated"


async def test_ten_thousand_items_are_each_done_once_though_the_process_is_killed(
    database: Database, sink: Sink
) -> None:
    async with worker(database, sink) as process, engine(database, max_running=0) as idle:
        workflow = await save_workflow(database, many("item"))
        execution_id = await idle.start(workflow, list(range(ITEMS)))

        async def half_done() -> bool:
            return await completed(database, "m[") > ITEMS // 2

        await eventually(half_done, 60)
        process.kill()
        await process.wait()
    assert await completed(database, "m[") < ITEMS
    async with engine(database, types={"item": sink.fast(echo)}) as second:
        row = await second.finish(execution_id, 60)
        assert row["status"] == "COMPLETED"
        assert json.loads(row["output"]) == list(range(ITEMS))
    runs = lines_of(sink)
    assert len(runs) == ITEMS
    lost = await database.fetchval("SELECT count(*) FROM step_attempts WHERE status = 'LOST'")
    assert runs.total() - ITEMS <= lost <= WINDOW


async def test_items_that_must_happen_once_are_not_repeated_by_a_kill(database: Database, sink: Sink) -> None:
    """What was under way fails with an unknown outcome; with `continue` the others go on."""
    async with worker(database, sink) as process, engine(database, max_running=0) as idle:
        workflow = await save_workflow(database, many("item_once") | {"on_item_error": "continue"})
        execution_id = await idle.start(workflow, list(range(1_000)))

        async def half_done() -> bool:
            return await completed(database, "m[") > 300

        await eventually(half_done, 60)
        process.kill()
        await process.wait()
    async with engine(database, types={"item_once": sink.fast(echo, Effect.ONCE)}) as second:
        row = await second.finish(execution_id, 60)
        assert row["status"] == "COMPLETED"
        output = json.loads(row["output"])
        failed = [index for index, value in enumerate(output) if value is None]
        assert [value for value in output if value is not None] == [n for n in range(1_000) if n not in failed]
        steps = await second.steps(execution_id)
        assert {steps[f"m[{index}]"]["error_code"] for index in failed} <= {"outcome_unknown"}
        assert 0 < len(failed) <= WINDOW
    assert max(lines_of(sink).values()) == 1


async def test_maps_of_runs_of_maps_give_their_results_in_order(database: Database) -> None:
    inner_step = {"id": "i", "type": "echo", "for_each": "${{ input }}", "with": {"value": "${{ item * 2 }}"}}
    async with engine(database, types={"echo": Step(echo)}) as running:
        levels = [await save_workflow(database, inner_step)]
        for _ in range(2):
            levels.append(await save_workflow(database, below(levels[-1])))
        value = [[[x, x + 1] for x in range(y, y + 3)] for y in range(4)]
        row = await running.finish(await running.start(levels[-1], value), 60)
        assert row["status"] == "COMPLETED", row["error"]
        assert json.loads(row["output"]) == [[[2 * n for n in c] for c in b] for b in value]
        assert await database.fetchval("SELECT count(*) FROM executions") == 1 + 4 + 12


def below(workflow: str) -> dict[str, Any]:
    """A step that runs a workflow for each item."""
    config = {"workflow": workflow, "input": "${{ item }}"}
    return {"id": "o", "type": "workflow.run", "for_each": "${{ input }}", "max_parallel": 3, "with": config}


async def test_too_deep_says_so(database: Database) -> None:
    """One of eight levels runs; one more fails where it goes too deep, and each level above says of whom."""
    async with engine(database, types={"echo": Step(echo)}) as running:
        workflow = await save_workflow(database, {"id": "i", "type": "echo", "with": {"value": "bottom"}})
        for _ in range(8):
            config = {"workflow": workflow, "input": None}
            workflow = await save_workflow(database, {"id": "o", "type": "workflow.run", "with": config})
        row = await running.finish(await running.start(workflow), 60)
        assert (row["status"], row["output"]) == ("COMPLETED", '"bottom"')
        above = await save_workflow(database, below(workflow))
        row = await running.finish(await running.start(above, [1, 2]), 60)
        assert (row["status"], row["error_code"]) == ("FAILED", "child_failed")
        deepest = await database.fetch("SELECT error, error_code FROM executions WHERE depth = 8 AND status = 'FAILED'")
        assert {found["error_code"] for found in deepest} == {"nested_too_deep"}
        assert "at most 8 levels deep" in deepest[0]["error"]
        left = "SELECT id FROM executions WHERE status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')"

        async def all_ended() -> bool:
            return not await database.fetch(left)

        await eventually(all_ended, 30)
