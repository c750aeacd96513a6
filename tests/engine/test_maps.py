"""Steps with `for_each`: every item once, results in order, a bounded window, whatever dies in between."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import REGISTRY

from app.domain.definition import RetryPolicy
from app.domain.errors import StepError
from app.domain.steps import Done, Effect, Sleep
from app.engine.step_types import StepContext
from tests.database import Database
from tests.engine.harness import engine, save_workflow
from tests.engine.kit import Gate, Sink, Step, returning

AGAIN = RetryPolicy(max_attempts=3, initial_interval=0.001, jitter="none")


def each(step_type: str = "echo", **more: Any) -> dict[str, Any]:
    return {"id": "m", "type": step_type, "for_each": "${{ input }}", "with": {"value": "${{ item }}"}} | more


async def echo(context: StepContext, config: Mapping[str, Any]) -> Done:
    return Done(config["value"])


@pytest.mark.parametrize("count", [0, 1, 3, 250])
@pytest.mark.parametrize("effect", [Effect.PURE, Effect.ONCE])
async def test_results_are_in_the_order_of_the_items(database: Database, count: int, effect: Effect) -> None:
    async with engine(database, types={"echo": Step(echo, effect)}) as running:
        row = await running.run(each(max_parallel=7), value=list(range(count)))
        assert (row["status"], json.loads(row["output"])) == ("COMPLETED", list(range(count)))
        steps = await running.steps(row["id"])
        assert (steps["m"]["items"], len(steps)) == (count, count + 1)


async def test_attempts_of_items_are_counted_as_others_are(database: Database) -> None:
    def counted() -> float:
        labels = {"type": "counted", "result": "COMPLETED"}
        return REGISTRY.get_sample_value("stepstream_step_attempts_total", labels) or 0.0

    before = counted()
    async with engine(database, types={"counted": Step(echo)}) as running:
        await running.run(each("counted"), value=[1, 2, 3])
    assert counted() - before == 3


async def test_a_window_of_items_runs_at_once_and_no_more(database: Database) -> None:
    gate = Gate()
    async with engine(database, types={"gate": gate.step}) as running:
        execution_id = await running.submit(each("gate", max_parallel=3), value=[1, 2, 3, 4, 5])
        await gate.inside.wait()
        while len(gate.contexts) < 3:
            await running.row(execution_id)
        assert sorted(context.step_id for context in gate.contexts) == ["m[0]", "m[1]", "m[2]"]
        gate.free.set()
        row = await running.finish(execution_id)
        assert json.loads(row["output"]) == [None] * 5
        assert len(gate.contexts) == 5


async def test_an_item_is_tried_again_alone(database: Database) -> None:
    async def shaky(context: StepContext, config: Mapping[str, Any]) -> Done:
        if config["value"] == 2 and context.attempt < 3:
            raise StepError("not yet")
        return Done(config["value"])

    async with engine(database, types={"shaky": Step(shaky, retry=AGAIN)}) as running:
        row = await running.run(each("shaky"), value=[1, 2, 3])
        assert json.loads(row["output"]) == [1, 2, 3]
        assert await running.attempts(row["id"], "m[1]") == ["FAILED", "FAILED", "COMPLETED"]
        assert await running.attempts(row["id"], "m[0]") == ["COMPLETED"]
        retries = await running.events(row["id"], "step_retrying")
        assert [event["step_id"] for event in retries] == ["m[1]", "m[1]"]


async def odd_only(context: StepContext, config: Mapping[str, Any]) -> Done:
    if config["value"] % 2 == 0:
        raise StepError(f"{config['value']} is even", code="even", retryable=False)
    return Done(config["value"])


async def test_a_failed_item_fails_the_step_and_starts_no_more(database: Database) -> None:
    async with engine(database, types={"odd": Step(odd_only)}) as running:
        row = await running.run(each("odd", max_parallel=1), value=[1, 2, 3, 5])
        assert (row["status"], row["error_code"], row["error"]) == ("FAILED", "even", "Item 1: 2 is even")
        assert set(await running.steps(row["id"])) == {"m", "m[0]", "m[1]"}
        failed = await running.events(row["id"], "step_failed")
        assert [event["step_id"] for event in failed] == ["m[1]", "m"]


async def test_items_may_fail_without_failing_the_step(database: Database) -> None:
    async with engine(database, types={"odd": Step(odd_only)}) as running:
        row = await running.run(each("odd", on_item_error="continue"), value=[1, 2, 3, 4])
        assert (row["status"], json.loads(row["output"])) == ("COMPLETED", [1, None, 3, None])
        steps = await running.step_statuses(row["id"])
        assert [steps[f"m[{index}]"] for index in range(4)] == ["COMPLETED", "FAILED", "COMPLETED", "FAILED"]


@pytest.mark.parametrize(
    ("value", "code"),
    [({"a": 1}, "for_each_not_a_list"), ("abc", "for_each_not_a_list"), ([0] * 10_001, "too_many_items")],
)
async def test_what_is_no_list_or_too_long_fails_the_step(database: Database, value: Any, code: str) -> None:
    async with engine(database, types={"echo": Step(echo)}) as running:
        row = await running.run(each(), value=value)
        assert (row["status"], row["error_code"]) == ("FAILED", code)


async def test_an_item_whose_expression_fails_is_that_items_failure(database: Database) -> None:
    async with engine(database, types={"echo": Step(echo)}) as running:
        step = each(**{"with": {"value": "${{ item.name }}"}, "on_item_error": "continue"})
        row = await running.run(step, value=[{"name": "Ann"}, {}, {"name": "Bob"}])
        assert json.loads(row["output"]) == ["Ann", None, "Bob"]


async def test_ten_thousand_items_leave_few_events(database: Database) -> None:
    async with engine(database, types={"echo": Step(echo)}) as running:
        row = await running.finish(await running.submit(each(max_parallel=100), value=list(range(10_000))), 120)
        assert row["status"] == "COMPLETED"
        assert json.loads(row["output"]) == list(range(10_000))
        assert len(await running.event_types(row["id"])) < 1_000
        progress = await running.events(row["id"], "step_progress")
        assert progress[-1]["data"] == {"fraction": 1.0, "message": "10000 of 10000"}


async def test_after_a_crash_no_finished_item_runs_again(database: Database, sink: Sink) -> None:
    gate = Gate()

    async def half(context: StepContext, config: Mapping[str, Any]) -> Done | Sleep:
        if config["value"] >= 5:
            gate.contexts.append(context)
            gate.inside.set()
            await gate.free.wait()
        return Done(config["value"])

    async with engine(database, types={"work": sink.step(then=half)}) as running:
        execution_id = await running.submit(each("work", max_parallel=2), value=list(range(8)))
        await gate.inside.wait()
        while len(gate.contexts) < 2:
            await running.row(execution_id)
        await running.crash()
    gate.free.set()
    async with engine(database, types={"work": sink.step(then=half)}) as successor:
        row = await successor.finish(execution_id)
        assert json.loads(row["output"]) == list(range(8))
        runs = [len(sink.lines(f"m[{index}]")) for index in range(8)]
        assert runs == [1, 1, 1, 1, 1, 2, 2, 1]
        assert await successor.attempts(execution_id, "m[5]") == ["LOST", "COMPLETED"]


async def test_maps_nest_through_sub_workflows(database: Database) -> None:
    async with engine(database, types={"echo": Step(echo)}) as running:
        inner = await save_workflow(database, each(max_parallel=2))
        row = await running.run(
            {
                "id": "outer", "type": "workflow.run", "for_each": "${{ input }}", "max_parallel": 2,
                "with": {"workflow": inner, "input": "${{ item }}"},
            },
            value=[[1, 2], [], [3, 4, 5]],
        )  # fmt: skip
        assert json.loads(row["output"]) == [[1, 2], [], [3, 4, 5]]
        assert len(await running.children(row["id"])) == 3


async def test_a_cancelled_map_ends_with_its_items(database: Database) -> None:
    gate = Gate()
    async with engine(database, types={"gate": gate.step}, cancel_grace=0.1) as running:
        execution_id = await running.submit(each("gate", max_parallel=2), value=[1, 2, 3])
        await gate.inside.wait()
        await running.cancel(execution_id)
        row = await running.finish(execution_id)
        assert row["status"] == "CANCELLED"
        assert set((await running.step_statuses(execution_id)).values()) == {"CANCELLED"}


async def test_steps_behind_a_map_see_its_results(database: Database) -> None:
    types = {"echo": Step(echo), "done": returning("done")}
    async with engine(database, types=types) as running:
        row = await running.run(
            each(),
            {"id": "sum", "type": "end", "needs": ["m"], "with": {"output": "${{ size(steps.m.output) }}"}},
            value=[1, 2, 3],
        )
        assert json.loads(row["output"]) == 3
