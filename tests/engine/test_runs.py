"""A run from acceptance to its end: what runs, in which order, what is recorded of it, and why it ended so."""

import asyncio
import gc
import weakref

from app.domain.errors import StepError
from app.domain.jsontext import decode
from app.domain.steps import Done
from app.engine.driver import Driver
from tests.engine.harness import ORG, cancel, engine, eventually, new_execution, save_workflow
from tests.engine.kit import Gate, Step, returning
from tests.streaming.ends import until_terminal


def log(step_id, *needs, **more):
    return {"id": step_id, "type": "log", "needs": list(needs), "with": {"message": step_id}, **more}


def fail(step_id, *needs, **more):
    return {"id": step_id, "type": "fail", "needs": list(needs), "with": {"message": f"{step_id} broke"}, **more}


async def test_three_steps_complete_with_every_event_and_row(running, database):
    row = await running.run(
        {"id": "a", "type": "log", "with": {"message": "hello ${{ input }}"}},
        {"id": "b", "type": "function", "needs": ["a"], "with": {"function": "fibonacci", "args": {"n": 10}}},
        {"id": "c", "type": "set", "needs": ["b"], "with": {"value": "${{ steps.b.output.value }}"}},
        value="world",
    )
    assert row["status"] == "COMPLETED", row["error"]
    assert row["output"] == '{"value":55}'
    assert row["progress"] == 100
    assert row["created_at"] <= row["started_at"] <= row["completed_at"]
    assert row["duration_seconds"] == (row["completed_at"] - row["started_at"]).total_seconds()
    assert decode(row["execution_graph"])["order"] == ["a", "b", "c"]
    assert await running.event_types(row["id"]) == [
        "execution_queued", "execution_started", "step_started", "step_log", "step_completed", "step_started",
        "step_completed", "step_started", "step_completed", "execution_completed",
    ]  # fmt: skip
    steps = await database.fetch("SELECT path, status, attempt, input FROM execution_steps ORDER BY step_number")
    assert [tuple(step)[:3] for step in steps] == [("a", "COMPLETED", 1), ("b", "COMPLETED", 1), ("c", "COMPLETED", 1)]
    assert decode(steps[0]["input"]) == {"message": "hello world"}
    progress = [event["data"]["progress"] for event in await running.events(row["id"], "step_completed")]
    assert progress == [33, 66, 100]


async def test_branches_run_at_the_same_time_and_join(database):
    left, right = Gate(output="l"), Gate(output="r")
    async with engine(database, types={"left": left.step, "right": right.step}) as running:
        execution_id = await running.submit(
            {"id": "a", "type": "start"},
            {"id": "l", "type": "left", "needs": ["a"]},
            {"id": "r", "type": "right", "needs": ["a"]},
            {"id": "j", "type": "set", "needs": ["l", "r"], "with": {"both": "${{ steps.l.output + steps.r.output }}"}},
        )
        async with asyncio.timeout(10):
            await left.inside.wait()
            await right.inside.wait()  # while the other is still inside
        left.free.set()
        right.free.set()
        assert (await running.finish(execution_id))["output"] == '{"both":"lr"}'


async def test_a_wide_run_starts_all_its_branches_in_one_commit(database):
    inside, free = [], asyncio.Event()

    async def wait(context, config):
        inside.append(context.step_id)
        if len(inside) == 100:
            free.set()
        return await returning(1).run(context, config) if await free.wait() else None

    async with engine(database, types={"wait": Step(wait)}) as running:
        names = [f"s{number}" for number in range(100)]
        row = await running.run(
            *({"id": name, "type": "wait"} for name in names),
            {"id": "j", "type": "set", "needs": names[:32], "with": {"n": "${{ size(input) }}"}},
            value=[1, 2],
        )
        assert row["status"] == "COMPLETED", row["error"]
        commits = (
            "SELECT count(DISTINCT xmin::text) FROM execution_events "
            "WHERE execution_id = $1 AND type = 'step_started' AND step_id <> 'j'"
        )
        assert await database.fetchval(commits, row["id"]) == 1


async def test_a_switch_takes_one_way_and_skips_the_other(running):
    row = await running.run(
        {"id": "route", "type": "switch", "with": {"cases": {"hot": "${{ input > 5 }}"}, "default": "cold"}},
        log("hot", "route.hot"),
        log("cold", "route.cold"),
        log("behind_cold", "cold"),
        log("join", "hot", "cold"),
        value=9,
    )
    assert row["status"] == "COMPLETED", row["error"]
    assert await running.step_statuses(row["id"]) == {
        "route": "COMPLETED", "hot": "COMPLETED", "cold": "SKIPPED", "behind_cold": "SKIPPED", "join": "COMPLETED",
    }  # fmt: skip
    steps = await running.steps(row["id"])
    assert (steps["route"]["ports"], steps["cold"]["reason"]) == (["hot"], "not_taken")


async def test_a_false_condition_skips_its_step_and_what_only_it_leads_to(running):
    row = await running.run(log("a", **{"if": "${{ input }}"}), log("b", "a"), log("c"), value=False)
    assert row["status"] == "COMPLETED", row["error"]
    assert await running.step_statuses(row["id"]) == {"a": "SKIPPED", "b": "SKIPPED", "c": "COMPLETED"}
    assert (await running.steps(row["id"]))["a"]["reason"] == "condition_false"


async def test_a_failure_stops_new_steps_except_those_for_failures(running):
    row = await running.run(
        fail("a"),
        log("b", "a"),
        log("rescue", "a", run_if="any_failed"),
        log("always", "b", run_if="all_done"),
        log("strict", "b", run_if="all_succeeded"),
    )
    assert (row["status"], row["error"], row["error_code"]) == ("FAILED", "a broke", "failed_by_step")
    assert (row["output"], row["status_reason"]) == (None, "failed_by_step")
    assert await running.step_statuses(row["id"]) == {
        "a": "FAILED", "b": "SKIPPED", "rescue": "COMPLETED", "always": "COMPLETED", "strict": "SKIPPED",
    }  # fmt: skip
    (event,) = await running.events(row["id"], "execution_failed")
    assert (event["step_id"], event["data"]["error_code"]) == ("a", "failed_by_step")


async def test_the_first_error_is_the_runs_error(database):
    first, second = Gate(), Gate()

    def failing(gate, name):
        async def run(context, config):
            await gate.step.run(context, config)
            raise StepError(f"{name} broke", code=f"{name}_code", retryable=False)

        return Step(run)

    async with engine(database, types={"one": failing(first, "one"), "two": failing(second, "two")}) as running:
        execution_id = await running.submit({"id": "a", "type": "one"}, {"id": "b", "type": "two"})
        await asyncio.gather(first.inside.wait(), second.inside.wait())
        second.free.set()

        async def failed():
            return (await running.step_statuses(execution_id))["b"] == "FAILED"

        await eventually(failed)
        first.free.set()
        row = await running.finish(execution_id)
        assert (row["error"], row["error_code"]) == ("two broke", "two_code")
    audit = await database.fetch("SELECT error_code, error_message FROM audit_logs WHERE action = 'workflow.executed'")
    assert [tuple(entry) for entry in audit] == [("two_code", "two broke")]


async def test_a_failure_that_may_happen_does_not_stop_the_run(running):
    row = await running.run(
        fail("a", continue_on_error=True),
        {"id": "b", "type": "set", "needs": ["a"], "with": {"saw": "${{ steps.a.error.code }}"}},
    )
    assert (row["status"], row["output"]) == ("COMPLETED", '{"saw":"failed_by_step"}')
    assert await running.step_statuses(row["id"]) == {"a": "FAILED", "b": "COMPLETED"}


async def test_agents_results_tokens_and_cost_are_summed_up(database):
    async def think(context, config):
        context.spend(tokens=10, cost=0.5)
        return Done("text", agent_result={"step": context.step_id})

    async with engine(database, types={"think": Step(think)}) as running:
        row = await running.run(
            {"id": "a", "type": "think"}, {"id": "b", "type": "think", "needs": ["a"]}, log("c", "b")
        )
    assert (row["tokens_used"], row["cost"]) == (20, 1.0)
    assert decode(row["agent_results"]) == {"a": {"step": "a"}, "b": {"step": "b"}}


async def test_what_cannot_run_fails_when_it_is_claimed_and_says_why(running):
    row = await running.run({"id": "a", "type": "no_such_type"})
    assert (row["status"], row["error_code"]) == ("FAILED", "workflow_invalid")
    assert "no_such_type" in row["error"]
    assert row["started_at"] is None
    assert await running.event_types(row["id"]) == ["execution_queued", "execution_failed"]


async def test_an_accepted_execution_is_seen_pending_before_it_runs(database):
    first, second = Gate(), Gate()
    types = {"first": first.step, "second": second.step}
    async with engine(database, types=types, max_running=1) as running, database.connected() as other:
        await running.submit({"id": "a", "type": "first"})
        await first.inside.wait()
        execution_id = await running.submit({"id": "a", "type": "second"})
        status = "SELECT status FROM executions WHERE id = $1"
        assert await other.fetchval(status, execution_id) == "PENDING"
        first.free.set()
        await second.inside.wait()
        assert await other.fetchval(status, execution_id) == "RUNNING"
        second.free.set()
        await running.finish(execution_id)


async def test_a_step_starts_only_after_its_start_is_durable(database):
    """What the step itself sees of the tables, on another connection."""
    seen = []

    async def look(context, config):
        query = "SELECT status FROM execution_steps WHERE execution_id = $1 AND path = $2"
        async with database.connected() as other:
            seen.append((context.step_id, await other.fetchval(query, context.execution_id, context.step_id)))
            before = [step for step in ("a", "b") if step < context.step_id]
            seen.extend([(step, await other.fetchval(query, context.execution_id, step)) for step in before])
        return await returning(1).run(context, config)

    async with engine(database, types={"look": Step(look)}) as running:
        row = await running.run({"id": "a", "type": "look"}, {"id": "b", "type": "look", "needs": ["a"]})
    assert row["status"] == "COMPLETED"
    assert seen == [("a", "RUNNING"), ("b", "RUNNING"), ("a", "COMPLETED")]


async def test_more_than_fits_at_once_runs_in_turn(database):
    busy, most = set(), []

    async def count(context, config):
        busy.add(context.execution_id)
        most.append(len(busy))
        await asyncio.sleep(0)
        busy.discard(context.execution_id)
        return await returning(1).run(context, config)

    async with engine(database, types={"count": Step(count)}, max_running=3) as running:
        workflow = await save_workflow(database, {"id": "a", "type": "count"})
        ids = await asyncio.gather(*(running.start(workflow) for _ in range(40)))
        await asyncio.gather(*(finished(running, each) for each in ids))
    assert max(most) <= 3


async def finished(running, execution_id):
    assert await until_terminal(running.hub, running.log, ORG, execution_id, 20)


async def test_priority_goes_first_then_age(database):
    order = []

    async def note(context, config):
        order.append(config["n"])
        return await returning(1).run(context, config)

    gate = Gate()
    async with engine(database, types={"note": Step(note), "gate": gate.step}, max_running=1) as running:
        first = await running.submit({"id": "a", "type": "gate"})
        await gate.inside.wait()
        workflow = await save_workflow(database, {"id": "a", "type": "note", "with": {"n": "${{ input }}"}})
        ids = [await running.start(workflow, n, priority=p) for n, p in ((1, 0), (2, 5), (3, 0), (4, 9), (5, 5))]
        gate.free.set()
        for execution_id in (first, *ids):
            await running.finish(execution_id)
    assert order == [4, 2, 5, 1, 3]


async def test_counters_are_exact_with_300_runs_of_mixed_ends_at_once(database):
    """The counters themselves are compared with the rows when the test is over."""
    mixed = {"id": "a", "type": "switch", "with": {"cases": {"bad": "${{ input == 1 }}"}, "default": "good"}}
    async with engine(database) as running:
        workflows = [
            await save_workflow(database, mixed, fail("bad", "a.bad"), log("good", "a.good")) for _ in range(3)
        ]
        news = [new_execution(workflows[number % 3], number // 3 % 3) for number in range(300)]
        await asyncio.gather(*map(running.recorder.create, news[:150]))
        for new in news[150:]:
            await running.recorder.create(new)
            if new.input_text == "2":
                await cancel(database, new.id, ring=False)
        await asyncio.gather(*(finished(running, new.id) for new in news))
    rows = await database.fetch("SELECT status, count(*) AS number FROM executions GROUP BY status")
    ends = {row["status"]: row["number"] for row in rows}
    assert ends["FAILED"] == sum(new.input_text == "1" for new in news)
    assert ends["COMPLETED"] + ends["CANCELLED"] + ends["FAILED"] == 300
    await database.execute("SELECT pg_stat_force_next_flush()")
    assert await database.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


async def test_how_many_runs_led_to_one_is_known_to_its_steps_and_to_the_runs_it_starts(database):
    seen = []

    async def look(context, config):
        seen.append(context.hops)
        return Done()

    async with engine(database, types={"look": Step(look)}) as running:
        child = await save_workflow(database, {"id": "a", "type": "look"})
        parent = await save_workflow(
            database,
            {"id": "a", "type": "look"},
            {"id": "c", "type": "workflow.run", "needs": ["a"], "with": {"workflow": child}},
        )
        assert (await running.finish(await running.start(parent, control_text='{"hops":5}')))["status"] == "COMPLETED"
        assert (await running.finish(await running.start(parent)))["status"] == "COMPLETED"
    assert seen == [5, 5, 0, 0]


async def test_what_a_run_knew_is_let_go_when_it_ends(database, monkeypatch):
    """Without waiting for a garbage collection, which counts objects and not their megabytes."""
    drivers, begin = [], Driver.__init__

    def noted(self, *arguments):
        begin(self, *arguments)
        drivers.append(weakref.ref(self))

    monkeypatch.setattr(Driver, "__init__", noted)
    gc.disable()
    try:
        async with engine(database, types={"look": returning("x")}) as running:
            for _ in range(2):
                assert (await running.run({"id": "a", "type": "look"}))["status"] == "COMPLETED"
    finally:
        gc.enable()
    assert [driver() for driver in drivers] == [None, None]
