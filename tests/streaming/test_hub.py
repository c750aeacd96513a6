"""The hub: to whom it passes events on, what it keeps, and that it never waits for anybody."""

import asyncio
import json

import pytest

from app.streaming.hub import QUEUE_LIMIT, Hub, Word
from tests.streaming.fakes import EXECUTION, events


@pytest.fixture
async def hub():
    return Hub()


async def test_events_reach_those_who_follow_their_execution_and_no_others(hub):
    one, two, other = hub.subscribe(EXECUTION), hub.subscribe(EXECUTION), hub.subscribe("exec_2")
    hub.publish(EXECUTION, events(1, 3))
    hub.publish(EXECUTION, events(4, 4))
    assert [each.seq for each in await one.take()] == [1, 2, 3, 4]
    assert [each.seq for each in await two.take()] == [1, 2, 3, 4]
    waiting = asyncio.ensure_future(other.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    hub.publish("exec_2", events(1, 1))
    assert len(await waiting) == 1


async def test_an_event_is_encoded_once_for_all_its_readers(hub):
    readers = [hub.subscribe(EXECUTION) for _ in range(3)]
    hub.publish(EXECUTION, events(1, 2))
    batches = [await reader.take() for reader in readers]
    assert [json.loads(each.text)["seq"] for each in batches[0]] == [1, 2]
    for number in range(2):
        assert len({id(batch[number].text) for batch in batches}) == 1


async def test_who_waits_for_an_end_hears_of_nothing_else(hub):
    watch = hub.watch_end(EXECUTION)
    hearing = asyncio.ensure_future(watch.heard())
    hub.publish(EXECUTION, events(1, 3))
    await asyncio.sleep(0)
    assert not hearing.done()
    hub.publish(EXECUTION, events(4, 5, ends=True))
    hub.moved([EXECUTION])
    assert await hearing is Word.ENDED
    hub.moved([EXECUTION])
    assert await watch.heard() is Word.LOOK
    hub.end_waiting()
    assert await watch.heard() is Word.LEAVE
    watch.close()
    assert hub.followed == []


async def test_a_queue_that_is_full_is_dropped_for_a_reading_of_the_log(hub):
    slow, fast = hub.subscribe(EXECUTION), hub.subscribe(EXECUTION)
    for seq in range(1, QUEUE_LIMIT + 1):
        hub.publish(EXECUTION, events(seq, seq))
        await fast.take()
    assert len(slow._queue) == QUEUE_LIMIT
    hub.publish(EXECUTION, events(QUEUE_LIMIT + 1, QUEUE_LIMIT + 1))
    assert len(slow._queue) == 0
    hub.publish(EXECUTION, events(QUEUE_LIMIT + 2, QUEUE_LIMIT + 2))
    assert len(slow._queue) == 0  # it will read the log, where these are too
    assert await slow.take() is None
    hub.publish(EXECUTION, events(QUEUE_LIMIT + 3, QUEUE_LIMIT + 3))
    assert [each.seq for each in await slow.take()] == [QUEUE_LIMIT + 3]
    assert [each.seq for each in await fast.take()] == [QUEUE_LIMIT + 1, QUEUE_LIMIT + 2, QUEUE_LIMIT + 3]


async def test_more_events_at_once_than_a_queue_holds_are_read_from_the_log(hub):
    subscription = hub.subscribe(EXECUTION)
    hub.publish(EXECUTION, events(1, QUEUE_LIMIT + 1))
    assert await subscription.take() is None


async def test_word_of_another_process_makes_followers_read_the_log(hub):
    mine, other = hub.subscribe(EXECUTION), hub.subscribe("exec_2")
    hub.moved([EXECUTION, "exec_unknown"])
    assert await mine.take() is None
    waiting = asyncio.ensure_future(other.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    hub.moved([])
    assert await waiting is None
    assert await mine.take() is None


async def test_what_went_through_is_known_only_while_somebody_follows(hub):
    hub.publish(EXECUTION, events(1, 5))
    assert not hub.caught_up(EXECUTION, 5)
    subscription = hub.subscribe(EXECUTION)
    hub.publish(EXECUTION, events(6, 7))
    assert hub.caught_up(EXECUTION, 7)
    assert not hub.caught_up(EXECUTION, 8)
    subscription.close()
    assert not hub.caught_up(EXECUTION, 7)


async def test_nothing_is_kept_of_executions_nobody_follows(hub):
    for number in range(100):
        name = f"exec_{number}"
        subscription = hub.subscribe(name)
        hub.publish(name, events(1, 1))
        subscription.close()
        subscription.close()
        hub.publish(name, events(2, 2))
        hub.moved([name])
    assert (hub._subscriptions, hub._published, hub.followed, hub.subscribers) == ({}, {}, [], 0)


async def test_one_may_leave_while_others_stay(hub):
    leaving, staying = hub.subscribe(EXECUTION), hub.subscribe(EXECUTION)
    assert hub.subscribers == 2
    leaving.close()
    hub.publish(EXECUTION, events(1, 1))
    assert len(await staying.take()) == 1
    assert hub.followed == [EXECUTION]
