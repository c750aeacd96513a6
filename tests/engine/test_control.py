"""What people may do to a run: stop it, hold it, step through it, bend it. Durable, idempotent, whatever dies."""

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from app import clock
from app.domain.errors import StepError
from app.domain.jsontext import encode
from app.domain.steps import Done
from app.engine.ports import Origin
from app.engine.step_types import StepContext
from tests.database import Database
from tests.engine.harness import Engine, engine, save_workflow
from tests.engine.kit import Gate, Sink, Step, returning

WAIT = {"id": "wait", "type": "wait_for_signal", "with": {"signal": "go"}}
AFTER = {"id": "after", "type": "end", "needs": ["wait"], "with": {"output": "done"}}


def chain(count: int, step_type: str = "work") -> list[dict[str, Any]]:
    return [{"id": f"s{n}", "type": step_type, "needs": [f"s{n - 1}"] if n else []} for n in range(count)]


async def test_a_pause_takes_effect_when_running_steps_have_ended(database: Database) -> None:
    gate = Gate()
    types = {"gate": gate.step, "work": returning(1)}
    async with engine(database, types=types) as running:
        execution_id = await running.submit({"id": "g", "type": "gate"}, {"id": "w", "type": "work", "needs": ["g"]})
        await gate.inside.wait()
        await running.send(execution_id, "pause", {"reason": "lunch"})
        await running.until_read(execution_id)
        assert (await running.row(execution_id))["status_reason"] == "pause_requested"
        gate.free.set()
        row = await running.until(execution_id, "PAUSED")
        assert (row["owner"], row["status_reason"], row["status_message"]) == (None, "paused", "lunch")
        assert await running.step_statuses(execution_id) == {"g": "COMPLETED"}
        await running.send(execution_id, "resume")
        assert (await running.finish(execution_id))["status"] == "COMPLETED"


async def test_a_pause_lasts_over_a_restart(database: Database) -> None:
    async with engine(database) as running:
        execution_id = await running.submit(WAIT, AFTER)
        await running.until(execution_id, "WAITING")
        await running.send(execution_id, "pause")
        await running.until(execution_id, "PAUSED")
        await running.crash()
    async with engine(database) as successor:
        await successor.send(execution_id, "signal", 1, topic="go")
        await successor.until_read(execution_id)
        assert await successor.status(execution_id) == "PAUSED"
        await successor.send(execution_id, "resume")
        assert (await successor.finish(execution_id))["status"] == "COMPLETED"


async def test_a_pause_asked_for_survives_the_process_that_took_it_in(database: Database) -> None:
    gate = Gate()
    async with engine(database, types={"gate": gate.step}) as running:
        execution_id = await running.submit({"id": "g", "type": "gate"}, {"id": "h", "type": "gate", "needs": ["g"]})
        await gate.inside.wait()
        await running.send(execution_id, "pause")
        await running.until_read(execution_id)
        await running.crash()
    async with engine(database, types={"gate": gate.step}) as successor:
        await successor.until(execution_id, "PAUSED")
        gate.free.set()
        await successor.send(execution_id, "resume")
        assert (await successor.finish(execution_id))["status"] == "COMPLETED"


async def test_time_limits_stand_still_while_paused(database: Database) -> None:
    async with engine(database) as running:
        execution_id = await running.submit(WAIT | {"with": {"signal": "go", "timeout": "10m"}}, AFTER, timeout="1h")
        before = await running.until(execution_id, "WAITING")
        wake_at = (await running.steps(execution_id))["wait"]["wake_at"]
        await running.send(execution_id, "pause")
        await running.until(execution_id, "PAUSED")
        # As if it had been paused for two hours.
        (row,) = await database.fetch("SELECT control FROM executions WHERE id = $1", execution_id)
        control = json.loads(row["control"])
        control["pause"]["since"] = (clock.now() - timedelta(hours=2)).isoformat()
        await database.execute("UPDATE executions SET control = $2 WHERE id = $1", execution_id, encode(control))
        await running.send(execution_id, "resume")
        await running.until(execution_id, "WAITING")
        after = await running.row(execution_id)
        assert 7_190 < (after["deadline_at"] - before["deadline_at"]).total_seconds() < 7_300
        moved = (await running.steps(execution_id))["wait"]["wake_at"] - wake_at
        assert 7_190 < moved.total_seconds() < 7_300
        await running.send(execution_id, "signal", topic="go")
        assert (await running.finish(execution_id))["status"] == "COMPLETED"


@pytest.mark.parametrize("kinds", [("pause", "resume"), ("resume", "pause")])
async def test_of_opposite_buttons_the_last_counts(database: Database, kinds: tuple[str, str]) -> None:
    async with engine(database) as running:
        execution_id = await running.submit(WAIT, AFTER)
        await running.until(execution_id, "WAITING")
        for kind in kinds:
            await running.send(execution_id, kind)
        await running.until_read(execution_id)
        expected = "PAUSED" if kinds[-1] == "pause" else "WAITING"
        await running.until(execution_id, expected)
        await running.send(execution_id, "resume")
        await running.send(execution_id, "signal", topic="go")
        assert (await running.finish(execution_id))["status"] == "COMPLETED"


async def test_a_paused_run_can_be_cancelled(database: Database) -> None:
    async with engine(database) as running:
        execution_id = await running.submit(WAIT, AFTER)
        await running.until(execution_id, "WAITING")
        await running.send(execution_id, "pause")
        await running.until(execution_id, "PAUSED")
        await running.cancel(execution_id)
        assert (await running.finish(execution_id))["status"] == "CANCELLED"


async def test_terminate_waits_for_no_step(database: Database) -> None:
    stuck = asyncio.Event()

    async def stubborn(context: StepContext, config: Mapping[str, Any]) -> Done:
        while not stuck.is_set():
            try:
                await stuck.wait()
            except asyncio.CancelledError:
                continue
        return Done()

    async with engine(database, types={"stubborn": Step(stubborn)}, cancel_grace=60.0) as running:
        execution_id = await running.submit({"id": "s", "type": "stubborn"})
        await running.until(execution_id, "RUNNING")
        await running.cancel(execution_id)
        await running.until(execution_id, "CANCELLING")
        await running.send(execution_id, "terminate", {"reason": "now"})
        row = await running.finish(execution_id)
        assert (row["status"], row["error_code"]) == ("CANCELLED", "execution_terminated")
        stuck.set()


@pytest.mark.parametrize("kind", ["cancel", "terminate"])
@pytest.mark.parametrize("point", range(6))
async def test_a_run_can_be_stopped_at_every_point(database: Database, kind: str, point: int, sink: Sink) -> None:
    """A run of pure, effectful and waiting steps: stopped as soon as it has so many events."""
    async with engine(database, types={"work": sink.step()}, cancel_grace=0.1) as running:
        steps = [*chain(2), WAIT | {"needs": ["s1"]}, AFTER]
        execution_id = await running.submit(*steps)
        while len(await running.event_types(execution_id)) < 1 + point:
            await asyncio.sleep(0)
        await running.send(execution_id, kind)
        row = await running.finish(execution_id)
        assert row["status"] == "CANCELLED"
        assert len(sink.lines("s0")) <= 1
        assert len(sink.lines("s1")) <= 1


async def test_mail_to_a_run_that_has_ended_changes_nothing(database: Database) -> None:
    async with engine(database, types={"work": returning(1)}) as running:
        row = await running.run(*chain(1))
        before = await running.row(row["id"])
        for kind in ("cancel", "terminate", "pause", "resume", "step"):
            await running.send(row["id"], kind)
        other = await running.submit(*chain(1))
        await running.finish(other)
        await running.until_read(row["id"])
        assert await running.row(row["id"]) == before


async def _held(running: Engine, execution_id: str, reason: str, before: str) -> None:
    async def there() -> bool:
        row = await running.row(execution_id)
        where = row["status_message"] or ""
        return row["status"] == "PAUSED" and row["status_reason"] == reason and where.endswith(f"step '{before}'")

    async with asyncio.timeout(10):
        while not await there():
            await asyncio.sleep(0)


async def test_breakpoints_and_stepping(database: Database) -> None:
    async with engine(database, types={"work": returning(1)}) as running:
        workflow_id = await save_workflow(database, *chain(5))
        execution_id = await running.start(workflow_id, control_text=encode({"breakpoints": ["s1"]}))
        await _held(running, execution_id, "breakpoint", "s1")
        await running.send(execution_id, "step")
        await _held(running, execution_id, "stepping", "s2")
        await running.send(execution_id, "step")
        await _held(running, execution_id, "stepping", "s3")
        await running.send(execution_id, "breakpoints", {"steps": ["s4", "nonsense"]})
        await running.send(execution_id, "resume")
        await _held(running, execution_id, "breakpoint", "s4")
        await running.crash()
    async with engine(database, types={"work": returning(1)}) as successor:
        await successor.send(execution_id, "resume")
        assert (await successor.finish(execution_id))["status"] == "COMPLETED"


async def test_outputs_can_be_edited_and_pinned(database: Database) -> None:
    async with engine(database, types={"work": returning(1)}) as running:
        workflow_id = await save_workflow(
            database, *chain(4), output=[f"${{{{ steps.s{n}.output }}}}" for n in range(4)]
        )
        control = encode({"breakpoints": ["s1"], "pins": {"s3": "pinned"}})
        execution_id = await running.start(workflow_id, control_text=control)
        await _held(running, execution_id, "breakpoint", "s1")
        await running.send(execution_id, "edit", {"step_id": "s0", "output": {"edited": True}}, user="user_b")
        await running.send(execution_id, "edit", {"step_id": "s2", "output": "given"})
        await running.send(execution_id, "resume")
        row = await running.finish(execution_id)
        assert json.loads(row["output"]) == [{"edited": True}, 1, "given", "pinned"]
        steps = await running.steps(execution_id)
        assert (steps["s0"]["edited_by"], steps["s2"]["reason"], steps["s2"]["attempt"]) == ("user_b", "pinned", 0)


async def test_what_others_have_seen_is_not_edited(database: Database) -> None:
    async with engine(database, types={"work": returning(1)}) as running:
        workflow_id = await save_workflow(database, *chain(3))
        execution_id = await running.start(workflow_id, control_text=encode({"breakpoints": ["s2"]}))
        await _held(running, execution_id, "breakpoint", "s2")
        await running.send(execution_id, "edit", {"step_id": "s0", "output": 99})
        await running.until_read(execution_id)
        assert (await running.steps(execution_id))["s0"]["output"] == "1"
        await running.send(execution_id, "resume")
        await running.finish(execution_id)


async def test_one_step_runs_alone_with_the_outputs_it_is_given(database: Database) -> None:
    async with engine(database, types={"work": returning(1)}) as running:
        last = {"id": "last", "type": "end", "needs": ["s1"], "with": {"output": "${{ steps.s1.output + 1 }}"}}
        tail = {"id": "tail", "type": "work", "needs": ["last"]}
        workflow_id = await save_workflow(database, *chain(2), last, tail)
        row = await running.finish(
            await running.start(workflow_id, control_text=encode({"only": "last", "pins": {"s1": 41}}))
        )
        assert (row["status"], row["output"]) == ("COMPLETED", "42")
        statuses = {path: (step["status"], step["reason"]) for path, step in (await running.steps(row["id"])).items()}
        assert statuses == {
            "s0": ("SKIPPED", "not_selected"), "s1": ("COMPLETED", "pinned"), "last": ("COMPLETED", None),
            "tail": ("SKIPPED", "not_selected"),
        }  # fmt: skip


async def spend(context: StepContext, config: Mapping[str, Any]) -> Done:
    context.spend(tokens=100, cost=0.5)
    return Done(1)


@pytest.mark.parametrize(
    ("budget", "raised", "held_before"),
    [
        ({"max_steps": 2}, {"max_steps": 9}, "s2"),
        ({"max_cost": 1.0}, {"max_cost": 5.0}, "s2"),
        ({"max_tokens": 250}, {"max_tokens": 10_000}, "s3"),
    ],
)
async def test_a_budget_used_up_pauses_until_it_is_raised(
    database: Database, budget: dict[str, Any], raised: dict[str, Any], held_before: str
) -> None:
    async with engine(database, types={"work": Step(spend)}) as running:
        execution_id = await running.submit(*chain(5), budget=budget)
        await _held(running, execution_id, "budget_exceeded", held_before)
        (event,) = await running.events(execution_id, "budget_exceeded")
        assert event["data"]["budget"] == next(iter(budget))
        await running.send(execution_id, "resume")
        await running.until_read(execution_id)
        await _held(running, execution_id, "budget_exceeded", held_before)
        await running.send(execution_id, "budget", raised)
        await running.send(execution_id, "resume")
        assert (await running.finish(execution_id))["status"] == "COMPLETED"


async def test_a_step_repeats_until_its_condition_holds(database: Database, sink: Sink) -> None:
    async with engine(database, types={"work": sink.step(then=_counting)}) as running:
        step = {"id": "r", "type": "work", "with": {"n": "${{ index }}", "last": "${{ output }}"}}
        row = await running.run(step | {"repeat": {"until": "output.n == 3", "max": 10}})
        assert json.loads(row["output"]) == {"n": 3, "last": 2}
        assert len(sink.lines("r")) == 4
        row = await running.run(step | {"repeat": {"until": "output.n == 3", "max": 2}})
        assert (row["status"], row["error_code"]) == ("FAILED", "repeat_exhausted")
        rule = {"until": "output.n == 3", "max": 2, "on_exhausted": "continue"}
        assert json.loads((await running.run(step | {"repeat": rule}))["output"])["n"] == 1


async def test_each_round_is_a_request_of_its_own_to_who_goes_by_the_key(database: Database) -> None:
    keys: list[str] = []

    async def ask(context: StepContext, config: Mapping[str, Any]) -> Done:
        keys.append(context.idempotency_key)
        if len(keys) == 2:
            raise StepError("once more")
        return Done(len(keys))

    async with engine(database, types={"work": Step(ask)}) as running:
        retry = {"max_attempts": 2, "initial_interval": "1ms"}
        await running.run({"id": "r", "type": "work", "repeat": {"until": "index == 1"}, "retry": retry})
    assert [keys.index(key) for key in keys] == [0, 1, 1], "a round keeps its key when it is tried again"


async def _counting(context: StepContext, config: Mapping[str, Any]) -> Done:
    last = config["last"]
    return Done({"n": config["n"], "last": None if last is None else last["n"]})


async def test_rounds_far_apart_are_waited_out_without_a_lease_and_counted_over_crashes(database: Database) -> None:
    async with engine(database, types={"work": Step(_counting)}) as running:
        step = {"id": "r", "type": "work", "with": {"n": "${{ index }}", "last": "${{ output }}"}}
        execution_id = await running.submit(step | {"repeat": {"until": "output.n == 1", "interval": "1h"}})
        row = await running.until(execution_id, "WAITING")
        assert (row["owner"], row["status_reason"]) == (None, "waiting_for_repeat")
        await running.crash()
    async with engine(database, types={"work": Step(_counting)}) as successor:
        for table in ("executions", "execution_steps"):
            await database.execute(f"UPDATE {table} SET wake_at = now() WHERE wake_at IS NOT NULL")
        assert json.loads((await successor.finish(execution_id))["output"]) == {"n": 1, "last": 0}


async def test_a_result_is_used_again_while_it_is_young(database: Database, sink: Sink) -> None:
    async with engine(database, types={"work": sink.step()}) as running:
        step = {"id": "c", "type": "work", "with": {"x": "${{ input }}"}, "cache": {"ttl": "1h"}}
        workflow_id = await save_workflow(database, step)
        rows = [await running.finish(await running.start(workflow_id, value)) for value in (1, 1, 2)]
        assert [row["output"] for row in rows] == ['"c"'] * 3
        assert len(sink.lines("c")) == 2
        assert [(await running.steps(row["id"]))["c"]["reason"] for row in rows] == [None, "cached", None]
        await database.execute("UPDATE result_cache SET expires_at = now() - interval '1 second'")
        await running.finish(await running.start(workflow_id, 1))
        assert len(sink.lines("c")) == 3


async def test_carried_steps_are_not_run_again(database: Database, sink: Sink) -> None:
    broken = [True]

    async def flaky(context: StepContext, config: Mapping[str, Any]) -> Done:
        if broken[0] and context.step_id == "s1":
            raise ValueError("broken")
        return Done(context.step_id)

    async with engine(database, types={"work": sink.step(then=flaky)}) as running:
        failed = await running.run(*chain(3))
        assert failed["status"] == "FAILED"
        broken[0] = False
        again = await running.start(
            failed["workflow_id"],
            origin=Origin(failed["id"], failed["id"], retry=True, carried=["s0"]),
        )
        row = await running.finish(again)
        assert (row["status"], row["retry_of"], row["root_id"]) == ("COMPLETED", failed["id"], failed["id"])
        assert [len(sink.lines(step)) for step in ("s0", "s1", "s2")] == [1, 2, 1]
        keys = {line["key"] for line in sink.lines("s1")}
        assert len(keys) == 1, "the idempotency key is stable over retries"
        assert (await running.steps(again))["s0"]["reused_from"] == failed["id"]
        (reused,) = await running.events(again, "step_reused")
        assert reused["data"]["reused_from"] == failed["id"]
        trace = await database.fetch("SELECT trace FROM step_attempts WHERE execution_id = $1", failed["id"])
        assert any("ValueError: broken" in (row["trace"] or "") for row in trace)
