"""The lease of a process: trusted early enough, doubted in time, kept if it can be, and given up whole if lost."""

import asyncio
import itertools

import pytest

from app import clock
from app.db.urls import ENGINE
from app.db.workers import RENEW
from app.domain.errors import Unavailable
from app.domain.steps import Done
from app.engine.leases import Leases
from app.engine.ports import Recorded
from app.engine.rescuer import Rescuer
from app.engine.service import Service
from tests.engine.harness import engine, eventually, save_workflow
from tests.engine.kit import Gate, Step, Wire, returning
from tests.engine.records import transition

TTL = 30.0


class Registry:
    """Rows in memory, and a clock in the test's hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.rows: dict[str, float] = {}
        self.slowness = 0.0
        self.away = False
        self.rescues: list[bool] = []

    def monotonic(self) -> float:
        return self.now

    async def _answer(self) -> None:
        self.now += self.slowness
        if self.away:
            raise Unavailable("away")

    async def register(self, worker_id, ttl):
        await self._answer()
        self.rows[worker_id] = self.now + ttl

    async def renew(self, worker_id, ttl):
        await self._answer()
        if worker_id in self.rows:
            self.rows[worker_id] = self.now + ttl
        return worker_id in self.rows

    async def rescue(self, worker_id, *, expired):
        self.rescues.append(expired)
        return 0

    async def retire(self, worker_id):
        await self._answer()
        self.rows.pop(worker_id, None)


@pytest.fixture
async def registry(monkeypatch):
    registry = Registry()
    monkeypatch.setattr("app.engine.leases.clock.monotonic", registry.monotonic)
    return registry


@pytest.fixture
async def lost():
    return []


@pytest.fixture
async def leases(registry, lost):
    leases = Leases(registry, TTL, lost.append)
    await leases._register()
    return leases


async def test_trust_ends_before_the_lease_does(leases, registry):
    assert leases.trusted
    registry.now += TTL - 2.1
    assert leases.trusted
    registry.now += 0.2
    assert not leases.trusted
    assert registry.rows[leases.worker_id] > registry.now


async def test_a_slow_renewal_counts_from_when_it_was_sent(leases, registry):
    registry.slowness = 20.0
    await leases._renew()
    registry.now += 7.9
    assert leases.trusted
    registry.now += 0.2
    assert not leases.trusted


async def test_a_late_renewal_that_finds_its_row_has_lost_nothing(leases, registry, lost):
    worker_id = leases.worker_id
    registry.now += TTL * 3
    waiting = asyncio.ensure_future(leases.until_trusted(worker_id))
    await asyncio.sleep(0)
    assert not waiting.done()
    await leases._renew()
    assert await waiting is True
    assert (leases.worker_id, lost) == (worker_id, [])


async def test_a_lost_lease_is_told_once_and_a_new_worker_begins(leases, registry, lost):
    worker_id = leases.worker_id
    registry.now += TTL
    waiting = [asyncio.ensure_future(leases.until_trusted(worker_id)) for _ in range(3)]
    await asyncio.sleep(0)
    registry.rows.clear()
    await leases._renew()
    assert [await each for each in waiting] == [False] * 3
    assert lost == [worker_id]
    assert leases.worker_id in registry.rows
    assert leases.trusted
    assert await leases.until_trusted(leases.worker_id) is True
    assert await leases.until_trusted(worker_id) is False


async def test_lost_while_the_database_is_away_it_registers_later_and_has_lost_once(leases, registry, lost):
    registry.rows.clear()
    register = registry.register

    async def refuse(worker_id, ttl):
        raise Unavailable("away")

    registry.register = refuse
    for _ in range(3):
        with pytest.raises(Unavailable):
            await leases._renew()
    assert len(lost) == 1
    assert not leases.trusted
    registry.register = register
    await leases._renew()
    assert len(lost) == 1
    assert leases.trusted


async def test_nobody_judges_others_right_after_an_outage(leases, registry):
    """All have missed the same database: who renews first must not take everything from the rest."""
    rescuer = Rescuer(registry, leases, Service("claimer", registry.retire, TTL), TTL)
    await rescuer._sweep()
    registry.now += TTL + 1
    await rescuer._sweep()
    await leases._renew()
    await rescuer._sweep()
    registry.now += TTL / 2
    await leases._renew()
    await rescuer._sweep()
    registry.now += TTL / 2
    await rescuer._sweep()
    assert registry.rescues == [True, False, False, True]


async def test_giving_up_the_lease_needs_no_database(leases, registry):
    registry.away = True
    await leases.stop()
    assert not leases.trusted


class Stalled:
    """Holds renewals back while told to, as a frozen process or a dead network would."""

    def __init__(self, workers):
        self._workers = workers
        self.moving = asyncio.Event()
        self.moving.set()

    def __getattr__(self, name):
        return getattr(self._workers, name)

    async def renew(self, worker_id, ttl):
        await self.moving.wait()
        return await self._workers.renew(worker_id, ttl)


async def doubtful(running):
    async def in_doubt():
        return not running.orchestrator.lease_trusted

    await eventually(in_doubt)


async def test_a_zombie_writes_nothing_over_its_successor_and_begins_again(database):
    """Stalled past its lease, rescued by another process, and then let go on."""
    stalls, gate = [], Gate(output="from the zombie")
    types = {"test": gate.step}
    stalling = engine(
        database, types=types, registry=lambda workers: stalls.append(Stalled(workers)) or stalls[0], lease_ttl=1.0
    )
    async with stalling as zombie:
        worker_id = zombie.orchestrator._leases.worker_id
        execution_id = await zombie.submit(
            {"id": "a", "type": "test"}, {"id": "b", "type": "log", "needs": ["a"], "with": {"message": "x"}}
        )
        await gate.inside.wait()
        stalls[0].moving.clear()
        await doubtful(zombie)
        await zombie.expire()
        async with engine(database, types={"test": returning("from its successor")}) as successor:
            row = await successor.finish(execution_id)
            assert row["lease_epoch"] == 2
            gate.free.set()

            async def left():
                return zombie.orchestrator.running == 0

            await eventually(left)  # its record was refused, so it has left the execution alone
            assert await successor.row(execution_id) == row
            assert (await successor.steps(execution_id))["a"]["output"] == '"from its successor"'
            stalls[0].moving.set()

            async def back():
                return zombie.orchestrator.lease_trusted and zombie.orchestrator._leases.worker_id != worker_id

            await eventually(back)
        assert (await zombie.run({"id": "a", "type": "test"}))["output"] == '"from the zombie"'


async def test_told_of_its_loss_a_process_stops_what_it_ran(database):
    gate = Gate()
    async with engine(database, types={"test": gate.step}, lease_ttl=1.0) as loser:
        execution_id = await loser.submit({"id": "a", "type": "test"})
        await gate.inside.wait()
        async with engine(database, types={"test": returning("taken over")}) as other:
            await database.execute("DELETE FROM workers WHERE id = $1", loser.orchestrator._leases.worker_id)
            assert (await other.finish(execution_id))["output"] == '"taken over"'
            await gate.cancelled.wait()
            assert gate.contexts[0].cancelled


async def test_without_a_lease_nothing_is_claimed_and_a_new_claim_ends_the_former_driver(database):
    """Its row is gone, and it does not know yet: it may not take what others are to take."""
    former = Gate()
    async with engine(database, types={"test": former.step}) as running:
        execution_id = await running.submit({"id": "a", "type": "test"})
        await former.inside.wait()
        await database.execute("UPDATE workers SET id = 'renamed'")
        await database.execute("UPDATE executions SET owner = NULL, ready = true, has_slot = false")
        assert await running.orchestrator._queue.claim(running.orchestrator._leases.worker_id, 10) == []
        former.inside.clear()
        await database.execute("UPDATE workers SET id = $1", running.orchestrator._leases.worker_id)
        running.orchestrator.nudge()
        await former.inside.wait()
        await former.cancelled.wait()
        former.free.set()
        row = await running.finish(execution_id)
        assert (row["status"], row["lease_epoch"]) == ("COMPLETED", 2)


async def test_in_doubt_nothing_starts_and_when_the_doubt_ends_all_goes_on(database):
    """What ran may end and is recorded; the next effect waits until the lease is sure."""
    stalls, gate, started = [], Gate(), asyncio.Event()

    async def attempt(context, config):
        started.set()
        return await returning("b").run(context, config)

    stalling = engine(
        database,
        types={"gate": gate.step, "test": Step(attempt)},
        registry=lambda workers: stalls.append(Stalled(workers)) or stalls[0],
        lease_ttl=1.0,
    )
    async with stalling as running:
        execution_id = await running.submit({"id": "a", "type": "gate"}, {"id": "b", "type": "test", "needs": ["a"]})
        await gate.inside.wait()
        stalls[0].moving.clear()
        await doubtful(running)
        gate.free.set()

        async def recorded():
            return await running.step_statuses(execution_id) == {"a": "COMPLETED", "b": "RUNNING"}

        await eventually(recorded)
        waiting = await running.start(await save_workflow(database, {"id": "a", "type": "test"}))
        for _ in itertools.repeat(None, 100):
            await asyncio.sleep(0)
        assert not started.is_set()
        assert await running.status(waiting) == "PENDING"
        stalls[0].moving.set()
        for each in (execution_id, waiting):
            row = await running.finish(each)
            assert (row["status"], row["lease_epoch"]) == ("COMPLETED", 1)


async def test_a_process_that_stood_still_starts_nothing_before_it_knows_its_lease_again(database):
    """A step blocks the event loop for longer than the lease lives, when the one beside it is about to start."""
    trusted = []

    async def stand_still(context, config):
        until = clock.monotonic() + 1.5
        while clock.monotonic() < until:
            pass
        return Done()

    async def look(context, config):
        trusted.append(running.orchestrator.lease_trusted)
        return Done()

    types = {"still": Step(stand_still), "look": Step(look)}
    async with engine(database, types=types, lease_ttl=1.0) as running:
        row = await running.run({"id": "a", "type": "still"}, {"id": "b", "type": "look"})
    assert (row["status"], trusted) == ("COMPLETED", [True])


async def test_a_renewal_that_gets_no_answer_is_given_up_for_a_new_one_in_time(database):
    """A connection that died in silence would else cost the lease: a command waits for twenty seconds."""
    wire = Wire(database.role_url(ENGINE))
    async with engine(database, wire=wire.connect, lease_ttl=3.0) as running:
        worker, silent = running.orchestrator._leases.worker_id, wire.hold(RENEW)
        async with asyncio.timeout(10):
            await silent.hit.wait()
            answered = wire.sent.count(RENEW)

        async def renewed():
            return wire.sent.count(RENEW) > answered

        await eventually(renewed)
        assert running.orchestrator._leases.worker_id == worker


async def test_the_recorder_knows_nothing_of_leases_only_the_fence_decides(running, database):
    """Even a process that believes in its lease is refused once the row says otherwise."""
    execution_id = await running.submit({"id": "a", "type": "delay", "with": {"duration": "1h"}})
    await running.until(execution_id, "WAITING")
    mine = running.orchestrator._leases.worker_id
    late = transition(execution_id, owner=mine, epoch=1, write_no=2, seq=6, step="b")
    assert not isinstance(await running.recorder.record(late), Recorded)
