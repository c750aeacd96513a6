"""Streams of real runs: what a follower gets is the table, in any process, with any part of the way broken."""

import asyncio
import random
from contextlib import aclosing

import pytest

from app.db.urls import ENGINE
from app.domain.steps import Done
from app.streaming.session import follow
from app.streaming.wire import envelope
from tests.engine.harness import ORG, engine, eventually
from tests.engine.kit import Gate, Step, Wire


async def talk(context, config):
    for number in range(config.get("words", 20)):
        context.log(str(number))
        if number % 7 == 0:
            await asyncio.sleep(0)
    return Done()


TALK = ({"id": "a", "type": "talk"}, {"id": "b", "type": "talk", "needs": ["a"]})


async def collect(process, execution_id, after=0, ended=False):
    async with aclosing(follow(process.hub, process.log, ORG, execution_id, after, ended=ended)) as batches:
        return [envelope(execution_id, each.event) async for batch in batches for each in batch]


async def table(process, execution_id, after=0):
    stored = await process.log.read(ORG, execution_id, after, 10_000)
    return [envelope(execution_id, each) for each in stored]


async def test_live_and_late_get_the_same_and_the_table_holds_it(database):
    async with engine(database, types={"talk": Step(talk)}) as running:
        execution_id = await running.submit(*TALK)
        live = await collect(running, execution_id)
        assert live == await table(running, execution_id)
        assert [each["seq"] for each in live] == list(range(1, len(live) + 1))
        assert live[-1]["type"] == "execution_completed"
        assert await collect(running, execution_id) == live
        for after in (0, 1, 17, len(live) - 1, len(live)):
            assert await collect(running, execution_id, after, ended=True) == live[after:]


@pytest.mark.parametrize("doorbell_works", [True, False], ids=["by doorbell", "by poller"])
async def test_another_process_streams_what_this_one_runs(database, doorbell_works):
    gate = Gate()
    async with (
        engine(database, types={"talk": Step(talk), "gate": gate.step}) as worker,
        engine(database, doorbell_works=doorbell_works, max_running=0) as other,
    ):
        execution_id = await worker.submit(*TALK, {"id": "c", "type": "gate", "needs": ["b"]})
        following = asyncio.ensure_future(collect(other, execution_id))
        await gate.inside.wait()
        gate.free.set()
        seen = await following
        assert seen == await table(worker, execution_id)
        assert seen[-1]["type"] == "execution_completed"


async def test_the_doorbell_comes_back_after_its_connection_died(database):
    gate = Gate()
    wire = Wire(database.role_url(ENGINE), "test-doorbell")
    async with (
        engine(database, types={"gate": gate.step}) as worker,
        engine(database, wire=wire.connect, max_running=0) as other,
    ):
        rung = []
        other.doorbell.on_ring("events", rung.append)

        async def listens():
            return await database.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test-doorbell' "
                "AND query LIKE 'LISTEN%' AND datname = current_database()"
            )

        await eventually(listens)
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test-doorbell' "
            "AND query LIKE 'LISTEN%' AND datname = current_database()"
        )

        async def reconnected():
            return [] in rung and await listens()

        await eventually(reconnected)
        rung.clear()
        execution_id = await worker.submit({"id": "a", "type": "gate"})
        await gate.inside.wait()

        async def heard():
            return any(execution_id in ids for ids in rung)

        await eventually(heard)
        gate.free.set()
        await worker.finish(execution_id)


async def test_a_doorbell_that_hears_only_half_is_not_kept(database):
    """If one LISTEN fails the connection is thrown away: it would pass for whole, and stay deaf."""
    wire = Wire(database.role_url(ENGINE))
    connect, failures = wire.connect, []

    async def flaky():
        connection = await connect()
        original = connection._connection.add_listener

        async def add_listener(channel, callback):
            if channel == "stepstream_work" and len(failures) < 2:
                failures.append(channel)
                raise TimeoutError
            await original(channel, callback)

        connection.add_listener = add_listener
        return connection

    async with engine(database, wire=flaky) as running:
        rung = []
        running.doorbell.on_ring("work", rung.append)

        async def heard():
            await database.execute("SELECT pg_notify('stepstream_work', ':exec_1')")
            return ["exec_1"] in rung

        await eventually(heard)
    assert len(failures) == 2


async def test_a_process_does_not_listen_to_itself(database):
    async with engine(database, types={"talk": Step(talk)}) as running, engine(database, max_running=0) as other:
        mine, theirs = [], []
        running.doorbell.on_ring("events", mine.append)
        other.doorbell.on_ring("events", theirs.append)
        row = await running.run(*TALK)

        async def heard():
            return any(row["id"] in ids for ids in theirs)

        await eventually(heard)
        assert not any(row["id"] in ids for ids in mine)


@pytest.mark.parametrize("seed", range(4))
async def test_over_many_reconnections_the_pieces_are_the_table(database, seed):
    """Followers in both processes leave and come back at any moment while the run goes on."""
    choose = random.Random(seed)
    async with (
        engine(database, types={"talk": Step(talk)}) as worker,
        engine(database, max_running=0, doorbell_works=seed % 2 == 0) as other,
    ):
        execution_id = await worker.submit(*TALK, {"id": "c", "type": "talk", "needs": ["b"], "with": {"words": 300}})

        async def follower():
            seen = []
            while not seen or seen[-1]["type"] != "execution_completed":
                process, patience = choose.choice([worker, other]), choose.randrange(1, 12)
                after = seen[-1]["seq"] if seen else 0
                async with aclosing(follow(process.hub, process.log, ORG, execution_id, after)) as batches:
                    async for batch in batches:
                        seen.extend(envelope(execution_id, each.event) for each in batch)
                        patience -= 1
                        if patience == 0:
                            break
            return seen

        followed = await asyncio.gather(*(follower() for _ in range(6)))
        stored = await table(worker, execution_id)
        for seen in followed:
            assert seen == stored
        assert (worker.hub.subscribers, other.hub.subscribers) == (0, 0)


async def test_nothing_is_delivered_before_it_is_committed(database):
    """Each event is looked up, on another connection, in the moment it arrives."""
    async with engine(database, types={"talk": Step(talk)}) as running:
        execution_id = await running.submit(*TALK)
        async with aclosing(follow(running.hub, running.log, ORG, execution_id)) as batches:
            async for batch in batches:
                stored = await database.fetchval(
                    "SELECT max(seq) FROM execution_events WHERE execution_id = $1", execution_id
                )
                assert stored >= batch[-1].seq


async def test_another_organisation_sees_nothing(database):
    async with engine(database, types={"talk": Step(talk)}) as running:
        row = await running.run(*TALK)
        assert await running.log.read("org_b", row["id"], 0, 100) == []
        assert await running.log.ended("org_b", row["id"]) is False
        assert await running.log.ended(ORG, row["id"]) is True
        assert await running.log.ended(ORG, "exec_unknown") is False


async def test_many_who_ask_whether_their_runs_ended_share_a_few_questions(database):
    wire = Wire(database.role_url(ENGINE))
    async with engine(database, wire=wire.connect) as running:
        row = await running.run({"id": "a", "type": "start"})
        wire.sent.clear()
        answers = await asyncio.gather(*(running.log.ended(ORG, row["id"]) for _ in range(200)))
        assert all(answers)
        assert sum("asked" in sql for sql in wire.sent) <= 2
