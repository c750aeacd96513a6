"""Stopped at any moment, a run ends with everything that belongs to it, and nothing of it begins afterwards."""

import asyncio
from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any

import pytest

from app import clock
from app.domain.steps import Done
from app.engine.step_types import StepContext
from tests.database import Database
from tests.engine.harness import engine, eventually, save_workflow
from tests.engine.kit import Gate, Step
from tests.engine.moments import Moments, moments

TERMINAL = "('COMPLETED', 'FAILED', 'CANCELLED')"


def work(step_id: str, *needs: str, **more: Any) -> dict[str, Any]:
    return {"id": step_id, "type": "work", "needs": list(needs)} | more


def everything(child: str) -> list[dict[str, Any]]:
    """Steps one after the other and side by side, items, waits for a time and for a signal, rounds, a sub-workflow."""
    return [
        work("a"),
        work("b", "a"),
        work("c", "a"),
        work("m", "b", "c", for_each=[1, 2, 3], max_parallel=2),
        {"id": "pure", "type": "set", "needs": ["m"], "with": {"n": 1}},
        {"id": "nap", "type": "delay", "needs": ["pure"], "with": {"duration": "20ms"}},
        work("r", "nap", repeat={"until": "index == 2", "max": 5}),
        {"id": "sub", "type": "workflow.run", "needs": ["r"], "with": {"workflow": child}},
        {"id": "w", "type": "wait_for_signal", "needs": ["sub"], "with": {"signal": "go"}},
        {"id": "ok", "type": "approval", "needs": ["w"], "with": {"title": "Go?", "deadline": "20ms",
                                                                 "on_deadline": "approve"}},
        work("z", "ok"),
    ]  # fmt: skip


class Watch:
    """Notes the steps that begin once their run has ended."""

    def __init__(self) -> None:
        self.moments: Moments | None = None
        self.late: list[tuple[str, str]] = []

    async def run(self, context: StepContext, config: Mapping[str, Any]) -> Done:
        assert self.moments is not None
        if context.execution_id in self.moments.ended:
            self.late.append((context.execution_id, context.step_id))
        return Done(context.step_id)


async def all_over(database: Database) -> None:
    """Everything has ended, children too, and leaves nothing half done."""

    async def over() -> bool:
        return not await database.fetch(f"SELECT id FROM executions WHERE status NOT IN {TERMINAL}")

    try:
        await eventually(over, 30)
    except TimeoutError:
        left = "SELECT id, parent_id, status, owner, wake_at FROM executions WHERE status NOT IN"
        raise AssertionError([dict(row) for row in await database.fetch(f"{left} {TERMINAL}")]) from None
    unsettled = "SELECT * FROM execution_steps WHERE status IN ('PENDING', 'RUNNING', 'WAITING')"
    assert not await database.fetch(unsettled)
    assert not await database.fetch("SELECT * FROM approvals WHERE status = 'PENDING'")


@pytest.mark.parametrize("kind", ["cancel", "terminate"])
async def test_at_every_event_of_a_run_and_of_its_child(database: Database, kind: str) -> None:
    watch = Watch()
    async with (
        engine(database, types={"work": Step(watch.run)}, cancel_grace=0.5) as running,
        moments(database, running) as acts,
    ):
        watch.moments = acts
        child = await save_workflow(database, work("x"), work("y", "x"))
        workflow = await save_workflow(database, *everything(child))
        whole = await run_whole(acts, running, workflow)
        (its_child,) = await running.children(whole)
        events = {"": len(await running.events(whole)), "/child": len(await running.events(its_child))}
        assert events[""] > 35
        points: dict[str, tuple[str, int, str]] = {}
        for whose, side in product(events, ("before", "after")):
            for seq in range(1, events[whose] + 1):
                execution_id = clock.new_id("exec")
                points[execution_id] = (whose, seq, side)
                acts.at(execution_id, 1, "after", partial(acts.send, execution_id, "signal", 1, "go"))
                acts.at(f"{execution_id}{whose}", seq, side, partial(asked, acts, execution_id, kind))
        await asyncio.gather(*(acts.start(workflow, execution_id) for execution_id in points))
        await all_over(database)
        rows = await database.fetch("SELECT id, status FROM executions WHERE parent_id IS NULL AND id <> $1", whole)
        too_late = [points[row["id"]] for row in rows if row["status"] == "COMPLETED"]
        assert len(too_late) < len(rows) / 5, too_late
        assert {row["status"] for row in rows} == {"CANCELLED", "COMPLETED"}
        assert watch.late == []


async def asked(acts: Moments, execution_id: str, kind: str) -> None:
    """The wish is stored, and who drives the run has heard of it."""
    await acts.send(execution_id, kind, {"reason": "stop"})
    if (driver := acts.running.orchestrator._drivers.get(execution_id)) is not None:
        driver.ring()


async def run_whole(acts: Moments, running: Any, workflow: str) -> str:
    """Run the workflow unhindered; its id."""
    execution_id = clock.new_id("exec")
    acts.at(execution_id, 1, "after", partial(acts.send, execution_id, "signal", 1, "go"))
    await acts.start(workflow, execution_id)
    assert (await running.finish(execution_id))["status"] == "COMPLETED"
    return execution_id


@pytest.mark.parametrize("kind", ["cancel", "terminate"])
async def test_while_its_child_is_being_started(database: Database, kind: str) -> None:
    """The child may be durable before its parent knows of it."""
    gate = Gate()
    async with (
        engine(database, types={"gate": gate.step}) as running,
        moments(database, running) as acts,
    ):
        child = await save_workflow(database, {"id": "g", "type": "gate"})
        workflow = await save_workflow(database, {"id": "s", "type": "workflow.run", "with": {"workflow": child}})
        execution_id = clock.new_id("exec")

        async def stop() -> None:
            await acts.send(execution_id, kind)
            driver = running.orchestrator._drivers[execution_id]
            while driver._snapshot.control.stop is None:
                await asyncio.sleep(0)

        acts.while_starting_a_child_of(execution_id, stop)
        await acts.start(workflow, execution_id)
        assert (await running.finish(execution_id))["status"] == "CANCELLED"
        await all_over(database)


async def test_by_another_process_than_the_one_that_started_its_child(database: Database) -> None:
    """The child was started, and before its parent had noted it their process died; then came the cancellation."""
    gate = Gate()
    types = {"gate": gate.step}
    async with engine(database, types=types) as running, moments(database, running) as acts:
        child = await save_workflow(database, {"id": "g", "type": "gate"})
        workflow = await save_workflow(database, {"id": "s", "type": "workflow.run", "with": {"workflow": child}})
        execution_id = clock.new_id("exec")
        await acts.start(workflow, execution_id)
        died = asyncio.Event()

        async def never() -> None:
            died.set()
            await asyncio.Event().wait()

        acts.at(execution_id, 5, "before", never)
        await died.wait()
        await running.crash()
    await running.send(execution_id, "cancel")
    async with engine(database, types=types) as successor:
        assert (await successor.finish(execution_id))["status"] == "CANCELLED"
        assert await successor.children(execution_id)
        await all_over(database)
