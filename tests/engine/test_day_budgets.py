"""Budgets of the day: what is used is recorded exactly, and who would use more than is left pauses."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from app import clock
from app.domain.errors import StepError
from app.domain.steps import Done
from app.engine.step_types import StepContext
from tests.database import Database
from tests.engine.harness import ORG, Engine, engine, eventually, save_workflow
from tests.engine.kit import Gate, Step

CHAIN = [{"id": f"s{n}", "type": "work", "needs": [f"s{n - 1}"] if n else []} for n in range(3)]


async def spend(context: StepContext, config: Mapping[str, Any]) -> Done:
    context.spend(tokens=100, cost=0.5)
    return Done(1)


TYPES = {"work": Step(spend)}


async def set_budget(database: Database, workflow_id: str = "", **limits: float) -> None:
    columns = ("max_cost", "max_tokens", "max_steps", "max_duration")
    await database.execute(
        "INSERT INTO day_budgets (org_id, workflow_id, updated_by, max_cost, max_tokens, max_steps, max_duration) "
        "VALUES ($1, $2, 'user_1', $3, $4, $5, $6) ON CONFLICT (org_id, workflow_id) DO UPDATE SET "
        "max_cost = excluded.max_cost, max_tokens = excluded.max_tokens, max_steps = excluded.max_steps",
        ORG, workflow_id, *(limits.get(column) for column in columns),
    )  # fmt: skip


async def used(database: Database, workflow_id: str) -> dict[str, float]:
    rows = await database.fetch(
        "SELECT sum(steps)::int AS steps, sum(tokens)::int AS tokens, sum(cost) AS cost, sum(seconds) AS seconds "
        "FROM usage_by_day WHERE workflow_id = $1 AND day = (now() AT TIME ZONE 'UTC')::date",
        workflow_id,
    )
    return dict(rows[0])


async def exceeded(running: Engine, execution_id: str) -> dict[str, Any]:
    row = await running.until(execution_id, "PAUSED")
    assert row["status_reason"] == "budget_exceeded"
    found: dict[str, Any] = (await running.events(execution_id, "budget_exceeded"))[-1]["data"]
    return found


async def told_twice(running: Engine, execution_id: str) -> list[dict[str, Any]]:
    async def found() -> list[dict[str, Any]] | None:
        events = await running.events(execution_id, "budget_exceeded")
        return events if len(events) > 1 else None

    events: list[dict[str, Any]] = await eventually(found)
    return events


async def test_what_runs_use_adds_up_by_workflow_and_day(database: Database) -> None:
    async with engine(database, types=TYPES) as running:
        workflow_id = await save_workflow(database, *CHAIN)
        for execution_id in [await running.start(workflow_id) for _ in range(20)]:
            await running.finish(execution_id)
    found = await used(database, workflow_id)
    assert (found["steps"], found["tokens"], found["cost"]) == (60, 6000, 30.0)
    assert found["seconds"] >= 0


@pytest.mark.parametrize(("scope", "whose"), [("workflow", "workflow"), ("", "organization")])
async def test_a_budget_used_up_by_others_pauses_until_it_is_raised(database: Database, scope: str, whose: str) -> None:
    workflow_id = await save_workflow(database, *CHAIN)
    scope = workflow_id if scope else ""
    await set_budget(database, scope, max_cost=2.0)
    async with engine(database, types=TYPES) as running:
        assert (await running.finish(await running.start(workflow_id)))["status"] == "COMPLETED"
        second = await running.start(workflow_id)
        assert await exceeded(running, second) == {"budget": f"{whose}.max_cost", "limit": 2.0, "used": 2.0}
        assert await running.step_statuses(second) == {"s0": "COMPLETED"}
        third = await running.start(workflow_id)
        await exceeded(running, third)
        assert await running.step_statuses(third) == {}
        await set_budget(database, scope, max_cost=3.0)
        await running.send(second, "resume")
        assert (await running.finish(second))["status"] == "COMPLETED", "a limit raised is heard of by who goes on"
        await running.send(third, "resume")
        assert [event["data"]["used"] for event in await told_twice(running, third)] == [2.0, 3.0]


async def test_what_failed_and_what_was_stopped_is_paid_for_too(database: Database) -> None:
    inside, never = asyncio.Event(), asyncio.Event()

    async def fail(context: StepContext, config: Mapping[str, Any]) -> Done:
        context.spend(tokens=10, cost=0.25)
        raise StepError("no", retryable=True)

    async def hang(context: StepContext, config: Mapping[str, Any]) -> Done:
        context.spend(tokens=1, cost=0.5)
        inside.set()
        await never.wait()
        return Done()

    async with engine(database, types={"fail": Step(fail), "hang": Step(hang)}) as running:
        retry = {"max_attempts": 3, "initial_interval": "1ms", "jitter": "none"}
        row = await running.run({"id": "f", "type": "fail", "retry": retry})
        assert (row["status"], row["tokens_used"], row["cost"]) == ("FAILED", 30, 0.75)
        assert (await used(database, row["workflow_id"]))["cost"] == 0.75
        execution_id = await running.submit({"id": "h", "type": "hang"})
        await inside.wait()
        await running.cancel(execution_id)
        row = await running.finish(execution_id)
        assert (row["status"], row["tokens_used"], row["cost"]) == ("CANCELLED", 1, 0.5)


async def test_a_budget_that_is_set_while_runs_are_under_way_is_heard_of(database: Database) -> None:
    gate = Gate()
    async with engine(database, types=TYPES | {"gate": gate.step}) as running:
        execution_id = await running.submit({"id": "g", "type": "gate"}, {"id": "w", "type": "work", "needs": ["g"]})
        await gate.inside.wait()
        await set_budget(database, max_steps=1)
        await running.orchestrator.budgets.refresh()
        gate.free.set()
        assert (await exceeded(running, execution_id))["budget"] == "organization.max_steps"


async def test_what_a_dead_process_recorded_is_known_to_the_next(database: Database) -> None:
    workflow_id = await save_workflow(database, *CHAIN)
    await set_budget(database, max_tokens=300)
    async with engine(database, types=TYPES) as running:
        assert (await running.finish(await running.start(workflow_id)))["status"] == "COMPLETED"
        await running.crash()
    async with engine(database, types=TYPES) as successor:
        assert (await exceeded(successor, await successor.start(workflow_id)))["used"] == 300


async def test_another_day_and_another_organisation_do_not_count(database: Database) -> None:
    workflow_id = await save_workflow(database, *CHAIN)
    await set_budget(database, max_steps=4)
    for org, day in (("org_b", "now()"), (ORG, "now() - interval '1 day'")):
        await database.execute(
            "INSERT INTO usage_by_day (org_id, day, workflow_id, shard, steps, seconds, tokens, cost) "
            f"VALUES ($1, (({day}) AT TIME ZONE 'UTC')::date, $2, 1, 99, 1, 1, 1)",
            org, clock.new_id("wf"),
        )  # fmt: skip
    async with engine(database, types=TYPES) as running:
        assert (await running.finish(await running.start(workflow_id)))["status"] == "COMPLETED"


async def test_a_child_counts_once(database: Database) -> None:
    async with engine(database, types=TYPES) as running:
        child = await save_workflow(database, *CHAIN)
        parent = await save_workflow(database, {"id": "c", "type": "workflow.run", "with": {"workflow": child}})
        row = await running.finish(await running.start(parent))
        assert (row["status"], row["cost"]) == ("COMPLETED", 1.5), "the run shows what it caused"
    assert (await used(database, parent))["cost"] == 0
    assert (await used(database, child))["cost"] == 1.5
