"""Cancelling: acknowledged once, cooperative first, forced after the grace, and without effect on what is over."""

import asyncio

import pytest

from app.db.queue import UNREAD
from app.db.urls import ENGINE
from app.domain.steps import Done
from tests.engine.harness import cancel, engine, eventually
from tests.engine.kit import Gate, Step, Wire


async def unread(database):
    return await database.fetchval("SELECT count(*) FROM execution_inbox WHERE applied_at IS NULL")


async def test_a_running_step_is_told_and_the_run_ends_cancelled(database):
    gate = Gate()
    async with engine(database, types={"gate": gate.step}) as running:
        execution_id = await running.submit(
            {"id": "a", "type": "gate"}, {"id": "b", "type": "log", "needs": ["a"], "with": {"message": "x"}}
        )
        await gate.inside.wait()
        await running.cancel(execution_id, "changed my mind")
        row = await running.finish(execution_id)
        assert gate.cancelled.is_set()
        assert gate.contexts[0].cancelled
        assert (row["status"], row["error_code"], row["status_message"]) == (
            "CANCELLED", "execution_cancelled", "changed my mind",
        )  # fmt: skip
        assert await running.step_statuses(execution_id) == {"a": "CANCELLED", "b": "SKIPPED"}
        assert await running.attempts(execution_id, "a") == ["CANCELLED"]
        asked, ended = await running.events(execution_id, "execution_cancelling", "execution_cancelled")
        assert asked["data"] == {"reason": "changed my mind", "requested_by": "user_org_a"}
        assert ended["data"] | asked["data"] == ended["data"]
    assert await unread(database) == 0


async def test_a_step_may_still_end_well_while_it_is_cancelled(database):
    async def attempt(context, config):
        context.log("inside")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return Done("tidy")

    async with engine(database, types={"test": Step(attempt)}) as running:
        execution_id = await running.submit({"id": "a", "type": "test"})
        await eventually(lambda: said_something(running, execution_id))
        await running.cancel(execution_id)
        assert (await running.finish(execution_id))["status"] == "CANCELLED"
        step = (await running.steps(execution_id))["a"]
        assert (step["status"], step["output"]) == ("COMPLETED", '"tidy"')


async def said_something(running, execution_id):
    return "step_log" in await running.event_types(execution_id)


@pytest.mark.parametrize("grace", [0.0, 0.1])
async def test_a_step_that_ignores_the_cancellation_is_left_behind_after_the_grace(database, grace):
    free, refused = asyncio.Event(), []

    async def attempt(context, config):
        context.log("inside")
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                refused.append(context.cancelled)
        context.log("nobody hears this")
        return Done("nor this")

    async with engine(database, types={"test": Step(attempt)}, cancel_grace=grace) as running:
        execution_id = await running.submit({"id": "a", "type": "test"})
        await eventually(lambda: said_something(running, execution_id))
        await running.cancel(execution_id)
        row = await running.finish(execution_id)
        assert row["status"] == "CANCELLED"
        asked, ended = await running.events(execution_id, "execution_cancelling", "step_cancelled")
        assert (ended["timestamp"] - asked["timestamp"]).total_seconds() >= grace
        free.set()
        assert refused[0] is True
        assert len(await running.events(execution_id, "step_log")) == 1


async def test_cancelled_before_it_began_it_never_does(database):
    gate, seen = Gate(), []

    async def attempt(context, config):
        seen.append(context.execution_id)
        return Done()

    async with engine(database, types={"gate": gate.step, "test": Step(attempt)}, max_running=1) as running:
        first = await running.submit({"id": "a", "type": "gate"})
        await gate.inside.wait()
        execution_id = await running.submit({"id": "a", "type": "test"})
        await running.cancel(execution_id)
        gate.free.set()
        await running.finish(first)
        row = await running.finish(execution_id)
        assert (row["status"], row["started_at"], seen) == ("CANCELLED", None, [])
        assert await running.step_statuses(execution_id) == {"a": "SKIPPED"}
        assert await running.event_types(execution_id) == ["execution_queued", "step_skipped", "execution_cancelled"]


async def test_a_sleeping_run_is_woken_to_be_cancelled(running):
    execution_id = await running.submit({"id": "a", "type": "delay", "with": {"duration": "1h"}})
    row = await running.until(execution_id, "WAITING")
    assert row["owner"] is None
    await running.cancel(execution_id)
    row = await running.finish(execution_id)
    assert (row["status"], row["wake_at"]) == ("CANCELLED", None)
    assert await running.step_statuses(execution_id) == {"a": "CANCELLED"}


async def test_a_step_that_waits_for_its_next_try_is_cancelled_at_once(database):
    retry = {"max_attempts": 3, "initial_interval": "1h", "jitter": "none"}
    async with engine(database) as running:
        execution_id = await running.submit(
            {"id": "a", "type": "function", "retry": retry, "with": {"function": "flaky", "args": {"fail_times": 5}}}
        )
        await running.until(execution_id, "WAITING")
        await running.cancel(execution_id)
        assert (await running.finish(execution_id))["status"] == "CANCELLED"
        assert await running.attempts(execution_id, "a") == ["FAILED"]


async def test_cancelling_twice_is_cancelling_once_and_the_first_reason_counts(database):
    free = asyncio.Event()

    async def attempt(context, config):
        context.log("inside")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await free.wait()
            raise

    async with engine(database, types={"test": Step(attempt)}) as running:
        execution_id = await running.submit({"id": "a", "type": "test"})
        await eventually(lambda: said_something(running, execution_id))
        await running.cancel(execution_id, "first")
        await running.until(execution_id, "CANCELLING")
        await running.cancel(execution_id, "second")

        async def read():
            return await unread(database) == 0

        await eventually(read)
        free.set()
        row = await running.finish(execution_id)
        assert (row["status"], row["status_message"]) == ("CANCELLED", "first")
        assert len(await running.events(execution_id, "execution_cancelling")) == 1


async def test_cancelling_what_is_over_changes_nothing(running):
    row = await running.run({"id": "a", "type": "start"})
    await running.cancel(row["id"])
    again = await running.run({"id": "a", "type": "start"})
    assert again["status"] == "COMPLETED"
    assert await running.row(row["id"]) == row


async def test_a_cancellation_nobody_rang_for_is_found(database):
    gate = Gate()
    async with engine(database, types={"gate": gate.step}, doorbell_works=False) as running:
        execution_id = await running.submit({"id": "a", "type": "gate"})
        await gate.inside.wait()
        await running.cancel(execution_id, ring=False)
        assert (await running.finish(execution_id))["status"] == "CANCELLED"
        sleeping = await running.submit({"id": "a", "type": "delay", "with": {"duration": "1h"}})
        await running.until(sleeping, "WAITING")
        await running.cancel(sleeping, ring=False)
        assert (await running.finish(sleeping))["status"] == "CANCELLED"


async def test_all_branches_are_cancelled_and_none_starts_any_more(database):
    gates = [Gate() for _ in range(3)]
    types = {f"gate{number}": gate.step for number, gate in enumerate(gates)}
    async with engine(database, types=types) as running:
        execution_id = await running.submit(
            *({"id": name, "type": name} for name in types),
            *({"id": f"after_{name}", "type": "log", "needs": [name], "with": {"message": "x"}} for name in types),
        )
        for gate in gates:
            await gate.inside.wait()
        await running.cancel(execution_id)
        await running.finish(execution_id)
        statuses = await running.step_statuses(execution_id)
        assert {statuses[name] for name in types} == {"CANCELLED"}
        assert {statuses[f"after_{name}"] for name in types} == {"SKIPPED"}


async def test_a_failure_during_the_cancellation_does_not_turn_it_into_one(database):
    async def attempt(context, config):
        context.log("inside")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("while tidying up") from None

    async with engine(database, types={"test": Step(attempt)}) as running:
        execution_id = await running.submit({"id": "a", "type": "test"})
        await eventually(lambda: said_something(running, execution_id))
        await running.cancel(execution_id)
        row = await running.finish(execution_id)
        assert row["status"] == "CANCELLED"
        assert (await running.steps(execution_id))["a"]["error"] == "ValueError: while tidying up"


async def test_a_reason_with_anything_in_it_is_recorded(database):
    gate = Gate()
    async with engine(database, types={"gate": gate.step}) as running:
        execution_id = await running.submit({"id": "a", "type": "gate"})
        await gate.inside.wait()
        await running.cancel(execution_id, "NUL \x00 and more than enough: " + "x" * 5000)
        row = await running.finish(execution_id)
        assert row["status"] == "CANCELLED"
        assert row["status_message"].startswith("NUL  and more")


@pytest.mark.parametrize("payload", [None, [], {}, {"reason": 5}, {"reason": None}])
async def test_a_cancellation_without_a_proper_reason_is_one_too(database, payload):
    gate = Gate()
    async with engine(database, types={"gate": gate.step}) as running:
        execution_id = await running.submit({"id": "a", "type": "gate"})
        await gate.inside.wait()
        await cancel(database, execution_id, payload=payload)
        row = await running.finish(execution_id)
        assert (row["status"], row["status_message"]) == ("CANCELLED", "The execution was cancelled")


async def test_the_run_ends_at_its_own_timeout(database):
    gate = Gate()
    async with engine(database, types={"gate": gate.step}) as running:
        row = await running.run(
            {"id": "a", "type": "gate"},
            {"id": "b", "type": "log", "needs": ["a"], "with": {"message": "x"}},
            timeout=0.1,
        )
        assert (row["status"], row["error_code"]) == ("FAILED", "execution_timed_out")
        assert await running.step_statuses(row["id"]) == {"a": "CANCELLED", "b": "SKIPPED"}
        assert row["duration_seconds"] >= 0.1
        assert gate.cancelled.is_set()


async def test_a_step_that_ignores_the_runs_timeout_does_not_prolong_it(database):
    free = asyncio.Event()

    async def attempt(context, config):
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue
        return Done()

    async with engine(database, types={"test": Step(attempt)}, cancel_grace=1000.0) as running:
        row = await running.run({"id": "a", "type": "test"}, timeout=0.05)
        assert row["error_code"] == "execution_timed_out"
        free.set()


async def test_a_sleeping_run_wakes_for_its_timeout(running):
    row = await running.run({"id": "a", "type": "delay", "with": {"duration": "1h"}}, timeout=1.2)
    assert (row["status"], row["error_code"]) == ("FAILED", "execution_timed_out")
    (slept,) = await running.events(row["id"], "execution_waiting")
    assert slept["data"]["wake_at"] < "9999"


async def test_mail_whose_reading_fails_is_read_later(database):
    """An unavailable database is no reason to fail a run."""
    gate, wire = Gate(), Wire(database.role_url(ENGINE))
    async with engine(database, types={"gate": gate.step}, wire=wire.connect) as running:
        execution_id = await running.submit({"id": "a", "type": "gate"})
        await gate.inside.wait()
        fault = wire.lose(UNREAD, after=False, times=4)
        await running.cancel(execution_id)
        row = await running.finish(execution_id)
        assert (row["status"], row["lease_epoch"]) == ("CANCELLED", 1)
        assert fault.hits == 4
