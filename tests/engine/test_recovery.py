"""What becomes of executions whose worker is gone: nothing finished is done again, nothing is forgotten."""

import asyncio
import os
import signal

import pytest

from app.db.queue import CLAIM, STEPS
from app.db.record_sql import FENCE
from app.db.recorder import GroupRecorder
from app.db.urls import ENGINE
from app.db.workers import RETIRE, incarnation
from app.db.workflow_source import DEFINITION
from app.domain.steps import Done, Effect
from app.streaming.hub import Hub
from tests.engine.harness import engine, eventually, new_execution, save_workflow
from tests.engine.kit import Gate, Step, Wire, returning
from tests.engine.worker import worker


async def accept(database, *steps):
    """Accept an execution without an engine; its id."""
    wire = Wire(database.role_url(ENGINE))
    recorder = GroupRecorder(wire.connect, Hub(), sender="accept", writers=1)
    recorder.start()
    new = new_execution(await save_workflow(database, *steps))
    await recorder.create(new)
    await recorder.stop()
    return new.id


async def left(sink, step):
    async def line():
        return sink.lines(step)

    await eventually(line, 20)


A, B_AFTER_A = {"id": "a", "type": "sink"}, {"id": "b", "type": "hang", "needs": ["a"]}


async def test_killed_in_the_middle_it_goes_on_where_the_record_ends(database, sink):
    """The dead process is noticed by its pid, long before its lease ends."""
    async with worker(database, sink) as process:
        execution_id = await accept(database, A, B_AFTER_A, {"id": "c", "type": "sink", "needs": ["b"]})
        await left(sink, "b")
        process.kill()
        await process.wait()
        async with engine(database, types={"sink": sink.step(), "hang": sink.step()}) as second:
            row = await second.finish(execution_id)
            assert (row["status"], row["lease_epoch"], row["recoveries"]) == ("COMPLETED", 2, 0)
            assert await second.attempts(execution_id, "a") == ["COMPLETED"]
            assert await second.attempts(execution_id, "b") == ["LOST", "COMPLETED"]
    assert [line["step"] for line in sink.lines()] == ["a", "b", "b", "c"]
    first, again = sink.lines("b")
    assert first["key"] == again["key"]
    assert first["pid"] != again["pid"]


async def test_a_step_that_must_happen_once_is_not_repeated_when_its_worker_is_killed(database, sink):
    async with worker(database, sink) as process:
        execution_id = await accept(database, A, {"id": "b", "type": "hang_once", "needs": ["a"]})
        await left(sink, "b")
        process.kill()
        await process.wait()
        types = {"sink": sink.step(), "hang_once": sink.step(Effect.ONCE)}
        async with engine(database, types=types) as second:
            row = await second.finish(execution_id)
            assert (row["status"], row["error_code"]) == ("FAILED", "outcome_unknown")
            assert await second.step_statuses(execution_id) == {"a": "COMPLETED", "b": "FAILED"}
    assert [line["step"] for line in sink.lines()] == ["a", "b"]


async def test_a_stopped_process_that_wakes_finds_its_work_done_and_changes_nothing(database, sink):
    """SIGSTOP past the lease: another process takes over and finishes; the sleeper wakes to a lost lease."""
    async with worker(database, sink, lease_ttl=1.0) as process:
        execution_id = await accept(database, A, B_AFTER_A)
        await left(sink, "b")
        process.send_signal(signal.SIGSTOP)
        async with engine(database, types={"sink": sink.step(), "hang": sink.step()}) as second:
            row = await second.finish(execution_id)
            events = await second.events(execution_id)
            process.send_signal(signal.SIGCONT)

            async def registered_again():
                mine = second.orchestrator._leases.worker_id
                return await database.fetchval("SELECT count(*) FROM workers WHERE id <> $1", mine) == 1

            await eventually(registered_again)
            assert await second.row(execution_id) == row
            assert await second.events(execution_id) == events
    assert [line["step"] for line in sink.lines()] == ["a", "b", "b"]


async def test_pure_steps_run_again_and_nobody_can_tell(database):
    gate, runs = Gate(), []

    async def attempt(context, config):
        runs.append(context.step_id)
        return await returning("pure").run(context, config)

    steps = {"id": "a", "type": "pure"}, {"id": "b", "type": "gate", "needs": ["a"]}
    types = {"pure": Step(attempt, Effect.PURE), "gate": gate.step}
    async with engine(database, types=types) as first:
        execution_id = await first.submit(*steps)
        await gate.inside.wait()
        await first.crash()
    types["gate"] = returning("done")
    async with engine(database, types=types) as second:
        row = await second.finish(execution_id)
        assert (row["output"], runs) == ('"done"', ["a"])
        assert await second.attempts(execution_id, "a") == ["COMPLETED"]


async def test_lost_before_its_first_commit_it_begins_anew(database):
    wire = Wire(database.role_url(ENGINE))
    held = wire.hold(FENCE)
    async with engine(database, types={"sink": returning()}, wire=wire.connect) as first:
        execution_id = await first.submit(A)
        await held.hit.wait()
        await first.crash()
        async with engine(database, types={"sink": returning("x")}) as second:
            row = await second.finish(execution_id)
            assert (row["output"], row["lease_epoch"], row["write_no"]) == ('"x"', 2, 2)


async def test_cancelled_while_its_worker_dies_it_stays_cancelled_and_the_reason_is_kept(database):
    async def stubborn(context, config):
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not context.cancelled:
                    raise
                context.cancelled = False

    async with engine(database, types={"sink": Step(stubborn)}) as first:
        execution_id = await first.submit(A)
        await first.until(execution_id, "RUNNING")
        await first.cancel(execution_id, "no longer needed")
        await first.until(execution_id, "CANCELLING")
        await first.crash()
    async with engine(database, types={"sink": returning()}) as second:
        row = await second.finish(execution_id)
        assert (row["status"], row["status_message"]) == ("CANCELLED", "no longer needed")
        (ended,) = await second.events(execution_id, "execution_cancelled")
        assert ended["data"]["requested_by"] == "user_org_a"


async def test_an_execution_whose_worker_dies_again_and_again_is_given_up(database):
    for _ in range(5):
        gate = Gate()
        async with engine(database, types={"sink": gate.step}) as doomed:
            if not await database.fetchval("SELECT count(*) FROM executions"):
                await doomed.submit(A)
            await gate.inside.wait()
            await doomed.crash()
    async with engine(database, types={"sink": returning()}) as last:
        execution_id = await database.fetchval("SELECT id FROM executions")
        row = await last.finish(execution_id)
        assert (row["status"], row["error_code"], row["lease_epoch"]) == ("FAILED", "poison", 6)
        assert await last.attempts(execution_id, "a") == ["LOST"] * 4
        assert (await last.run(A))["status"] == "COMPLETED"


async def test_what_kills_its_worker_takes_none_of_those_beside_it_along(database):
    """From the third death on those that were there are driven one at a time: the guilty one dies alone."""
    beside = 3
    for life in range(20):
        inside, calm = [], asyncio.Event()

        async def run(context, config, inside=inside, calm=calm):
            inside.append(config["kind"])
            await (asyncio.Event() if config["kind"] == "deadly" else calm).wait()
            return Done()

        async with engine(database, types={"sink": Step(run)}) as running:
            if life == 0:
                for kind in ("long", "deadly", "long", "long"):
                    await running.submit({"id": "a", "type": "sink", "with": {"kind": kind}})

            async def decided(inside=inside, life=life):
                if life < 3:
                    return len(inside) == 1 + beside
                return "deadly" in inside or await database.fetchval("SELECT count(*) = 4 FROM executions "
                                                                     "WHERE completed_at IS NOT NULL")  # fmt: skip

            if life >= 3:
                calm.set()
            await eventually(decided, 20)
            if "deadly" not in inside:
                break
            await running.crash()
    ends = await database.fetch("SELECT status, error_code, count(*) AS runs FROM executions GROUP BY 1, 2 ORDER BY 1")
    assert [tuple(row) for row in ends] == [("COMPLETED", None, beside), ("FAILED", "poison", 1)]


async def test_what_kills_the_worker_while_it_is_loaded_is_given_up_unseen(database):
    """The check comes before the definition is even looked at."""
    wire = Wire(database.role_url(ENGINE))
    execution_id = await accept(database, A)
    await database.execute("UPDATE executions SET recoveries = 5")
    async with engine(database, types={"sink": returning()}, wire=wire.connect) as running:
        assert (await running.finish(execution_id))["error_code"] == "poison"
    assert DEFINITION not in wire.sent


async def test_an_owner_without_a_lease_is_no_owner(database):
    """A claim may be committed in the moment its worker's row is deleted."""
    execution_id = await accept(database, A)
    await database.execute("UPDATE executions SET owner = 'worker_ghost', ready = false, lease_epoch = 1")
    async with engine(database, types={"sink": returning()}) as running:
        row = await running.finish(execution_id)
        assert (row["status"], row["lease_epoch"]) == ("COMPLETED", 2)


@pytest.mark.parametrize(("statement", "times"), [(CLAIM, 1), (STEPS, 2), (DEFINITION, 2)])
async def test_what_was_claimed_but_could_not_be_begun_is_handed_back(database, statement, times):
    """The database commits the claim and then cannot be asked for more: the execution is nobody's fault."""
    wire = Wire(database.role_url(ENGINE))
    async with engine(database, types={"sink": returning()}) as first:
        delay = {"id": "d", "type": "delay", "with": {"duration": "1h"}}
        execution_id = await first.submit(delay, {"id": "a", "type": "sink", "needs": ["d"]})
        await first.until(execution_id, "WAITING")
    await database.execute("UPDATE executions SET wake_at = now()")
    await database.execute("UPDATE execution_steps SET wake_at = now()")
    fault = wire.lose(statement, after=True, times=times)
    async with engine(database, types={"sink": returning()}, wire=wire.connect) as second:
        row = await second.finish(execution_id)
        assert (row["status"], row["lease_epoch"], row["recoveries"]) == ("COMPLETED", 3, 0)
    assert fault.hits == times


async def test_draining_lets_steps_end_within_the_budget(database):
    gate = Gate(output="in time")
    async with engine(database, types={"sink": gate.step}, drain_budget=30.0) as running:
        execution_id = await running.submit(A)
        await gate.inside.wait()
        draining = asyncio.ensure_future(running.orchestrator.drain())
        waiting = await running.start(await save_workflow(database, A))
        gate.free.set()
        await draining
        assert (await running.row(execution_id))["output"] == '"in time"'
        assert await running.status(waiting) == "PENDING"
        assert await database.fetchval("SELECT count(*) FROM workers") == 0


async def test_draining_hands_over_what_takes_too_long_and_another_process_is_rung(database, sink):
    gate = Gate()
    async with (
        engine(database, types={"sink": sink.step(), "hang": sink.step(then=gate.step.run)}, drain_budget=0.0) as first,
        engine(database, types={"sink": sink.step(), "hang": sink.step()}) as second,
    ):
        await stop_scanning(second)
        execution_id = await first.submit(A, B_AFTER_A)
        await gate.inside.wait()
        await first.orchestrator.drain()
        assert gate.cancelled.is_set()
        row = await second.finish(execution_id)
        assert (row["status"], row["lease_epoch"], row["recoveries"]) == ("COMPLETED", 2, 0)
        assert await second.attempts(execution_id, "b") == ["LOST", "COMPLETED"]
    assert [line["step"] for line in sink.lines()] == ["a", "b", "b"]


async def stop_scanning(running):
    """Let it claim only when it is rung for."""
    claimer = running.orchestrator._claimer
    claimer._interval = 1e6
    claimer.wake()

    async def waits():
        return claimer._woken._waiters

    await eventually(waits)


async def test_nothing_here_still_runs_when_others_may_begin(database):
    """The hand-over waits for the cancelled step: the same work must not overlap in two processes."""
    inside, tidying, tidy = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def attempt(context, config):
        inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            tidying.set()
            await tidy.wait()

    async with engine(database, types={"sink": Step(attempt)}, drain_budget=0.0) as first:
        execution_id = await first.submit(A)
        await inside.wait()
        owner = (await first.row(execution_id))["owner"]
        draining = asyncio.ensure_future(first.orchestrator.drain())
        await tidying.wait()
        for _ in range(20):
            assert (await first.row(execution_id))["owner"] == owner
        tidy.set()
        await draining
        assert (await first.row(execution_id))["owner"] is None


async def test_draining_hands_over_only_when_what_was_done_is_recorded(database):
    """A step that may happen once has ended; the cut comes while its record is on the way."""
    gate, wire = Gate(Effect.ONCE, output="done"), Wire(database.role_url(ENGINE))
    async with engine(database, types={"once": gate.step}, wire=wire.connect, drain_budget=0.0) as first:
        execution_id = await first.submit({"id": "a", "type": "once"}, {"id": "b", "type": "once", "needs": ["a"]})
        await gate.inside.wait()
        on_its_way = wire.hold(FENCE)
        gate.free.set()
        await on_its_way.hit.wait()
        draining = asyncio.ensure_future(first.orchestrator.drain())
        await asyncio.wait([draining], timeout=0.3)
        on_its_way.released.set()
        await draining
        first.alive = False
        steps = await first.steps(execution_id)
        assert (steps["a"]["status"], steps["a"]["output"]) == ("COMPLETED", '"done"')


async def test_draining_without_a_database_ends_and_leaves_the_lease_to_expire(database):
    wire = Wire(database.role_url(ENGINE))
    async with engine(database, wire=wire.connect) as running:
        wire.lose(RETIRE, after=False)
        await running.orchestrator.drain()
        assert await database.fetchval("SELECT count(*) FROM workers") == 1


async def test_two_processes_never_run_a_step_twice(database, sink):
    """Three of them, and every effect is in the sink exactly once."""
    steps = A, {"id": "b", "type": "sink", "needs": ["a"]}, {"id": "c", "type": "sink", "needs": ["a"]}
    types = {"sink": sink.step()}
    async with (
        worker(database, sink),
        engine(database, types=types) as first,
        engine(database, types=types) as second,
    ):
        workflow = await save_workflow(database, *steps)
        both = (first, second)
        ids = await asyncio.gather(*(both[number % 2].start(workflow) for number in range(100)))
        for execution_id in ids:
            assert (await first.finish(execution_id))["status"] == "COMPLETED"
    effects = [(line["execution"], line["step"]) for line in sink.lines()]
    assert len(effects) == len(set(effects)) == 300


async def test_the_finished_is_never_done_again_however_often_workers_die(database, sink):
    """Six steps in a row, and a crash in each of them."""
    names = [f"s{number}" for number in range(6)]
    steps = [
        {"id": name, "type": "sink", "needs": names[number - 1 : number] if number else []}
        for number, name in enumerate(names)
    ]
    execution_id = None
    for number in range(len(names)):
        gate = Gate()

        async def then(context, config, gate=gate, number=number):
            if context.step_id == names[number]:
                return await gate.step.run(context, config)
            return await returning().run(context, config)

        async with engine(database, types={"sink": Step(lambda c, w, then=then: then(c, w))}) as doomed:
            execution_id = execution_id or await doomed.submit(*steps)
            await gate.inside.wait()
            await doomed.crash()
    async with engine(database, types={"sink": sink.step()}) as last:
        row = await last.finish(execution_id)
        assert (row["status"], row["lease_epoch"]) == ("COMPLETED", 7)
        assert [line["step"] for line in sink.lines()] == [names[-1]]


async def test_a_worker_on_this_machine_is_known_to_be_alive_whatever_its_lease_says_to_pids(database):
    """Rescue by process looks at the process, not at the time of day."""
    assert incarnation(os.getpid()) == incarnation(os.getpid())
    assert incarnation(1) != incarnation(os.getpid())
    process = await asyncio.create_subprocess_exec("sleep", "100")
    known = incarnation(process.pid)
    assert known is not None
    process.send_signal(signal.SIGSTOP)
    assert incarnation(process.pid) == known
    process.kill()
    await process.wait()
    assert incarnation(process.pid) is None


async def test_a_dead_process_of_another_machine_is_left_to_its_lease(database):
    await database.execute(
        "INSERT INTO workers (id, host, pid, incarnation, lease_until) "
        "VALUES ('worker_far', 'elsewhere', 1, 'gone', now() + interval '1 hour')"
    )
    execution_id = await accept(database, A)
    await database.execute("UPDATE executions SET owner = 'worker_far', ready = false, lease_epoch = 1")
    async with engine(database, types={"sink": returning()}) as running:
        assert (await running.run(A))["status"] == "COMPLETED"
        assert await running.orchestrator._rescuer._sweep() is None
        assert (await running.row(execution_id))["owner"] == "worker_far"
        await database.execute("UPDATE workers SET lease_until = now() WHERE id = 'worker_far'")
        assert (await running.finish(execution_id))["lease_epoch"] == 2
