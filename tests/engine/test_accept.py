"""Accepting executions: durable on return, once for each key, and never behind the back of who gave up waiting."""

import asyncio

import pytest

from app.db import recorder as module
from app.db.accept_sql import ACCEPT, ACCEPTED, KEPT_KEYS
from app.db.recorder import GroupRecorder
from app.db.urls import ENGINE
from app.domain.errors import Problems, Unavailable
from app.engine.ports import Accepted, AlreadyAccepted
from app.streaming.hub import Hub
from tests.engine.harness import new_execution, save_workflow
from tests.engine.kit import Wire


@pytest.fixture
async def wire(database):
    return Wire(database.role_url(ENGINE), "test-recorder")


@pytest.fixture
async def recorder(wire):
    recorder = GroupRecorder(wire.connect, Hub(), sender="me")
    recorder.start()
    yield recorder
    await recorder.stop()


@pytest.fixture
async def workflow(database):
    return await save_workflow(database, {"id": "a", "type": "log"})


async def stored(database, table="executions"):
    column = "execution_id" if table in {"execution_events", "idempotency_keys"} else "id"
    return sorted(row[0] for row in await database.fetch(f"SELECT {column} FROM {table}"))


async def together(recorder, wire, *news):
    """Accept them in one batch: they gather while the acceptor is held up."""
    held = wire.hold(ACCEPT)
    first = asyncio.ensure_future(recorder.create(news[0]))
    await held.hit.wait()
    waiting = [asyncio.ensure_future(recorder.create(new)) for new in news[1:]]
    await asyncio.sleep(0)
    held.released.set()
    return await asyncio.gather(first, *waiting, return_exceptions=True)


async def test_what_is_accepted_is_there_with_its_first_event_and_its_audit_row(recorder, database, workflow):
    new = new_execution(workflow, {"a": [1]}, labels_text='{"env":"test"}', priority=7)
    accepted = await recorder.create(new)
    (row,) = await database.fetch("SELECT * FROM executions")
    assert (row["id"], row["status"], row["owner"], row["input_data"], row["priority"], row["labels"]) == (
        new.id, "PENDING", None, '{"a":[1]}', 7, '{"env": "test"}',
    )  # fmt: skip
    assert accepted == Accepted(row["created_at"])
    (event,) = await database.fetch("SELECT * FROM execution_events")
    assert (event["seq"], event["type"], event["timestamp"]) == (1, "execution_queued", row["created_at"])
    (audit,) = await database.fetch("SELECT * FROM audit_logs")
    assert (audit["id"], audit["action"], audit["resource_id"], audit["user_id"], audit["ip_address"]) == (
        new.audit_id, "execution.created", new.id, new.user_id, "192.0.2.1",
    )  # fmt: skip


async def test_what_is_accepted_for_a_worker_with_a_lease_is_his_at_once(recorder, wire, database, workflow):
    await database.execute(
        "INSERT INTO workers (id, host, pid, incarnation, lease_until) VALUES ('w1', '', 1, '', now())"
    )
    anybodys, his, anothers = [new_execution(workflow, number) for number in range(3)]
    answers = await asyncio.gather(
        recorder.create(anybodys), recorder.create(his, "w1"), recorder.create(anothers, "w_gone")
    )
    assert [answer.owned for answer in answers] == [False, True, False]
    rows = await database.fetch("SELECT id, owner, lease_epoch, has_slot, ready FROM executions")
    assert {tuple(row) for row in rows} == {
        (anybodys.id, None, 0, False, True),
        (his.id, "w1", 1, True, False),
        (anothers.id, None, 0, False, True),
    }
    await database.execute("UPDATE executions SET owner = NULL, has_slot = false, ready = true")


async def test_whose_it_is_stays_unknown_when_the_answer_is_lost(recorder, wire, database, workflow):
    """It strays then, and is handed back like all that a worker owns without knowing."""
    await database.execute(
        "INSERT INTO workers (id, host, pid, incarnation, lease_until) VALUES ('w1', '', 1, '', now())"
    )
    wire.lose(ACCEPT, after=True)
    accepted = await recorder.create(new_execution(workflow), "w1")
    assert isinstance(accepted, Accepted)
    assert not accepted.owned
    assert await database.fetchval("SELECT owner FROM executions") == "w1"
    await database.execute("UPDATE executions SET owner = NULL, has_slot = false, ready = true")


async def test_a_crowd_is_accepted_in_a_few_statements(recorder, wire, database, workflow):
    news = [new_execution(workflow, number) for number in range(200)]
    await together(recorder, wire, *news)
    assert await stored(database) == sorted(new.id for new in news)
    assert len(wire.sent) < 10


@pytest.mark.parametrize("key", [None, "key_1"])
@pytest.mark.parametrize("after", [True, False], ids=["answer lost", "question lost"])
async def test_a_lost_answer_neither_doubles_nor_loses_an_execution(recorder, wire, database, workflow, key, after):
    new = new_execution(workflow, idempotency_key=key, fingerprint="f")
    fault = wire.lose(ACCEPT, after=after)
    assert isinstance(await recorder.create(new), Accepted)
    assert fault.hits == 1
    assert await stored(database) == await stored(database, "execution_events") == [new.id]
    assert await stored(database, "audit_logs") == [new.audit_id]


async def test_an_answer_lost_twice_is_unknown_and_the_key_tells(recorder, wire, database, workflow):
    new = new_execution(workflow, idempotency_key="key_1", fingerprint="f")
    wire.lose(ACCEPT, after=True, times=2)
    with pytest.raises(Unavailable):
        await recorder.create(new)
    again = new_execution(workflow, idempotency_key="key_1", fingerprint="f")
    assert await recorder.create(again) == AlreadyAccepted(new.id, "f")
    assert await stored(database) == [new.id]


async def test_a_key_stands_for_its_first_request(recorder, database, workflow):
    first = new_execution(workflow, 1, idempotency_key="key_1", fingerprint="one")
    await recorder.create(first)
    other = new_execution(workflow, 2, idempotency_key="key_1", fingerprint="two")
    assert await recorder.create(other) == AlreadyAccepted(first.id, "one")
    assert isinstance(await recorder.create(new_execution(workflow, 3, idempotency_key="key_2")), Accepted)
    assert first.id in await stored(database)
    assert other.id not in await stored(database)


@pytest.mark.parametrize("lost", [0, 1], ids=["answered", "answer lost"])
async def test_of_a_crowd_with_one_key_one_is_accepted_and_all_learn_which(recorder, wire, database, workflow, lost):
    first = new_execution(workflow)
    crowd = [new_execution(workflow, idempotency_key="key_1", fingerprint="f") for _ in range(20)]
    fault = wire.lose(ACCEPT, after=True, times=lost, skip=1)  # the crowd is in the second statement
    answers = (await together(recorder, wire, first, *crowd))[1:]
    (winner,) = set(await stored(database)) - {first.id}
    for new, answer in zip(crowd, answers, strict=True):
        assert isinstance(answer, Accepted) if new.id == winner else answer == AlreadyAccepted(winner, "f")
    assert fault.hits == lost


async def test_two_processes_with_the_same_keys_in_opposite_order_do_not_stand_in_each_others_way(
    recorder, wire, database, workflow
):
    other_wire = Wire(database.role_url(ENGINE), "test-recorder")
    other = GroupRecorder(other_wire.connect, Hub(), sender="other")
    other.start()
    keys = [f"key_{number}" for number in range(50)]
    mine, theirs = (
        [new_execution(workflow, idempotency_key=key, fingerprint="f") for key in order]
        for order in (keys, reversed(keys))
    )
    answers = await asyncio.gather(
        together(recorder, wire, new_execution(workflow), *mine),
        together(other, other_wire, new_execution(workflow), *theirs),
    )
    await other.stop()
    accepted = [answer for batch in answers for answer in batch[1:] if isinstance(answer, Accepted)]
    assert len(accepted) == len(keys)
    assert len(await stored(database, "idempotency_keys")) == len(keys)


async def test_what_cannot_be_stored_is_a_problem_of_that_request_alone(recorder, wire, database, workflow):
    good = [new_execution(workflow, number) for number in range(5)]
    bad = new_execution(workflow, user_agent="a\x00b")
    orphan = new_execution("wf_unknown")
    answers = await together(recorder, wire, *good[:3], bad, orphan, *good[3:])
    assert [type(answer) for answer in answers] == [Accepted] * 3 + [Problems] * 2 + [Accepted] * 2
    assert [answer.error_code for answer in answers[3:5]] == ["value_not_storable", "unknown_reference"]
    assert await stored(database) == sorted(new.id for new in good)


@pytest.mark.parametrize("query", [ACCEPTED, KEPT_KEYS])
async def test_looking_up_what_a_key_stands_for_survives_a_lost_connection(recorder, wire, database, workflow, query):
    first = new_execution(workflow, idempotency_key="key_1", fingerprint="f")
    await recorder.create(first)
    fault = wire.lose(query, after=False)
    again = await recorder.create(new_execution(workflow, idempotency_key="key_1", fingerprint="f"))
    assert again == AlreadyAccepted(first.id, "f")
    assert fault.hits == 1


async def test_who_was_told_that_the_database_does_not_answer_is_not_accepted_later(
    recorder, wire, database, workflow, monkeypatch
):
    """An outage must not leave a heap of executions behind that everybody has started again meanwhile."""
    held = wire.hold(ACCEPT)
    under_way = new_execution(workflow)
    waiting = asyncio.ensure_future(recorder.create(under_way))
    await held.hit.wait()
    monkeypatch.setattr(module, "ACCEPT_SECONDS", 0.0)
    late = [new_execution(workflow, number) for number in range(3)]
    answers = await asyncio.gather(*map(recorder.create, late), return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    held.released.set()
    assert isinstance(await waiting, Accepted)
    monkeypatch.undo()
    last = new_execution(workflow)
    await recorder.create(last)
    assert await stored(database) == sorted([under_way.id, last.id])


async def test_who_leaves_does_not_keep_others_from_being_accepted(recorder, wire, database, workflow):
    held = wire.hold(ACCEPT)
    leaving = asyncio.ensure_future(recorder.create(new_execution(workflow)))
    await held.hit.wait()
    staying = asyncio.ensure_future(recorder.create(new_execution(workflow)))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    held.released.set()
    assert isinstance(await staying, Accepted)
    assert len(await stored(database)) == 2


async def test_a_stopped_recorder_accepts_nothing(recorder, workflow):
    await recorder.stop()
    with pytest.raises(Unavailable):
        await recorder.create(new_execution(workflow))
