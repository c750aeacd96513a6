"""A session: every event once, in order, from any cursor, whatever happens in between; the terminal one last."""

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.domain.errors import Unavailable
from app.streaming.hub import QUEUE_LIMIT, Hub
from app.streaming.pace import paced
from app.streaming.poller import Poller
from app.streaming.session import PAGE, follow
from tests.streaming.ends import until_terminal
from tests.streaming.fakes import EXECUTION, ORG, MemoryLog, event, events


@pytest.fixture
async def hub():
    return Hub()


@pytest.fixture
async def log():
    return MemoryLog()


def commit(hub, log, *new, here=True):
    """Events are recorded, then published by this process, or left to be found."""
    log.stored.extend(new)
    if here:
        hub.publish(EXECUTION, list(new))


async def collect(hub, log, after=0, **options):
    """All that a session delivers until it ends by itself."""
    async with aclosing(follow(hub, log, ORG, EXECUTION, after, **options)) as batches:
        return [each.seq async for batch in batches for each in batch]


async def take(batches, number):
    """The next `number` events of a session, or more if they come together."""
    seen = []
    while len(seen) < number:
        seen.extend(each.seq for each in await anext(batches))
    return seen


async def has_read():
    """A session that goes on has read the log to its end by now: that takes it a few turns of the loop."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_comes_late_gets_everything(hub, log):
    commit(hub, log, *events(1, 20, ends=True))
    assert await collect(hub, log) == list(range(1, 21))
    assert await collect(hub, log, after=15) == [16, 17, 18, 19, 20]


async def test_a_long_log_is_read_in_pages(hub, log):
    commit(hub, log, *events(1, PAGE * 2 + 1, ends=True))
    assert await collect(hub, log) == list(range(1, PAGE * 2 + 2))
    assert log.reads[:3] == [0, PAGE, PAGE * 2]


async def test_who_is_there_gets_events_as_they_come_without_reading(hub, log):
    commit(hub, log, *events(1, 2))
    async with aclosing(follow(hub, log, ORG, EXECUTION)) as batches:
        assert await take(batches, 2) == [1, 2]
        waiting = asyncio.ensure_future(take(batches, 3))
        await has_read()
        log.reads.clear()
        commit(hub, log, *events(3, 5))
        assert await waiting == [3, 4, 5]
        commit(hub, log, *events(6, 7, ends=True))
        assert await take(batches, 2) == [6, 7]
        with pytest.raises(StopAsyncIteration):
            await anext(batches)
    assert log.reads == []


async def test_events_between_subscribing_and_reading_come_once(hub, log):
    """They are in the log that is read and in the queue too."""
    commit(hub, log, *events(1, 3))
    log.free.clear()
    reading = asyncio.ensure_future(collect(hub, log))
    await log.reading.wait()
    commit(hub, log, *events(4, 6))
    log.free.set()
    commit(hub, log, *events(7, 8, ends=True))
    assert await reading == list(range(1, 9))


async def test_a_slow_reader_loses_its_queue_but_no_event(hub, log):
    commit(hub, log, event(1))
    async with aclosing(follow(hub, log, ORG, EXECUTION)) as batches:
        assert await take(batches, 1) == [1]
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        for seq in range(2, QUEUE_LIMIT * 3):
            commit(hub, log, event(seq))
        commit(hub, log, event(QUEUE_LIMIT * 3, "execution_completed"))
        seen = [each.seq for each in await waiting]
        async for batch in batches:
            seen.extend(each.seq for each in batch)
    assert seen == list(range(2, QUEUE_LIMIT * 3 + 1))


async def test_a_hole_in_the_queue_is_filled_from_the_log(hub, log):
    """Some events were committed elsewhere, and their word was lost."""
    commit(hub, log, event(1))
    async with aclosing(follow(hub, log, ORG, EXECUTION)) as batches:
        assert await take(batches, 1) == [1]
        commit(hub, log, *events(2, 5), here=False)
        waiting = asyncio.ensure_future(take(batches, 6))
        await asyncio.sleep(0)
        commit(hub, log, *events(6, 7))
        assert await waiting == [2, 3, 4, 5, 6, 7]


async def test_events_of_another_process_come_by_its_word(hub, log):
    following = asyncio.ensure_future(collect(hub, log))
    await log.reading.wait()
    commit(hub, log, *events(1, 4), here=False)
    hub.moved([EXECUTION])
    commit(hub, log, *events(5, 6, ends=True), here=False)
    hub.moved([])
    assert await following == [1, 2, 3, 4, 5, 6]


async def test_word_that_comes_during_a_reading_is_not_lost(hub, log):
    log.free.clear()
    following = asyncio.ensure_future(collect(hub, log))
    await log.reading.wait()
    commit(hub, log, *events(1, 2, ends=True), here=False)
    hub.moved([EXECUTION])  # the reading under way does not see these
    log.free.set()
    assert await following == [1, 2]


async def test_with_a_dead_doorbell_the_poller_delivers(hub, log):
    poller = Poller(hub, log, 0.001)
    poller.service.start()
    following = asyncio.ensure_future(collect(hub, log))
    await log.reading.wait()
    for first, last in ((1, 3), (4, 4), (5, 9)):
        commit(hub, log, *events(first, last, ends=last == 9), here=False)
        while log.reads[-1] < last and not following.done():
            await asyncio.sleep(0)
    assert await following == list(range(1, 10))
    await poller.service.stop()


async def test_the_poller_leaves_alone_who_has_it_all(hub, log):
    poller = Poller(hub, log, 1e6)
    async with aclosing(follow(hub, log, ORG, EXECUTION)) as batches:
        waiting = asyncio.ensure_future(take(batches, 3))
        await asyncio.sleep(0)
        commit(hub, log, *events(1, 3))
        assert await waiting == [1, 2, 3]
        waiting = asyncio.ensure_future(take(batches, 1))
        await has_read()
        log.reads.clear()
        for _ in range(3):
            await poller._look()
            await asyncio.sleep(0)
        assert log.reads == []
        commit(hub, log, event(4))
        assert await waiting == [4]
    await poller._look()
    assert poller._seen == {}


async def test_of_an_ended_run_only_the_log_is_asked(hub, log):
    commit(hub, log, *events(1, 5, ends=True), here=False)
    for after, expected in ((0, [1, 2, 3, 4, 5]), (3, [4, 5]), (5, []), (99, [])):
        assert await collect(hub, log, after, ended=True) == expected
    assert hub.followed == []


async def test_leaving_in_mid_reading_leaves_nothing_behind(hub, log):
    log.free.clear()
    following = asyncio.ensure_future(collect(hub, log))
    await log.reading.wait()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert hub.subscribers == 0


async def test_a_database_that_is_away_ends_no_session(hub, log, monkeypatch):
    monkeypatch.setattr("app.streaming.session.RETRY_SECONDS", 0)
    commit(hub, log, *events(1, 3))
    async with aclosing(follow(hub, log, ORG, EXECUTION)) as batches:
        assert await take(batches, 3) == [1, 2, 3]
        log.error = Unavailable("away")
        commit(hub, log, *events(4, 5), here=False)
        hub.moved([EXECUTION])
        following = asyncio.ensure_future(take(batches, 2))
        log.reading.clear()
        await log.reading.wait()
        assert not following.done()
        log.error = None
        assert await following == [4, 5]
    assert hub.subscribers == 0


async def test_a_failing_log_ends_the_session_with_its_error(hub, log):
    log.error = RuntimeError("a bug")
    async with aclosing(follow(hub, log, ORG, EXECUTION)) as batches:
        with pytest.raises(RuntimeError):
            await anext(batches)
    assert hub.subscribers == 0


ACTION = st.sampled_from(["here", "elsewhere", "lost", "rung", "read", "disconnect", "flood", "spin", "spin"])


@example(["spin", "read", "spin", "spin", "here", "lost", "here"])
@given(actions=st.lists(ACTION, max_size=60))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_over_any_disconnections_the_pieces_are_the_table(actions):
    """Events are committed here, elsewhere with or without word of it, in floods; the client reads and reconnects."""
    hub, log = Hub(), MemoryLog()
    seen: list[int] = []

    async def client():
        async for batch in follow(hub, log, ORG, EXECUTION, seen[-1] if seen else 0):
            for each in batch:
                assert each.seq == len(seen) + 1  # every event once and in order
                seen.append(each.seq)

    def next_events(number):
        return events(len(log.stored) + 1, len(log.stored) + number)

    reading = asyncio.ensure_future(client())
    for action in actions:
        match action:
            case "here":
                commit(hub, log, *next_events(2))
            case "flood":
                commit(hub, log, *next_events(QUEUE_LIMIT + 1))
            case "elsewhere":
                commit(hub, log, *next_events(2), here=False)
                hub.moved([EXECUTION])
            case "lost":
                commit(hub, log, *next_events(1), here=False)
            case "rung":
                hub.moved([])
            case "read":
                log.free.set()
            case "disconnect":
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                reading = asyncio.ensure_future(client())
            case "spin":
                log.free.clear()
                await asyncio.sleep(0)
    log.free.set()
    commit(hub, log, event(len(log.stored) + 1, "execution_completed"))
    await reading
    assert seen == [each.seq for each in log.stored]
    assert hub.subscribers == 0


async def test_a_crowd_that_hears_of_another_process_reads_the_log_once(hub, log):
    commit(hub, log, event(1), here=False)
    sessions = [follow(hub, log, ORG, EXECUTION) for _ in range(50)]
    assert await asyncio.gather(*(take(session, 1) for session in sessions)) == [[1]] * 50
    assert log.reads == [0]
    following = [asyncio.ensure_future(take(session, 2)) for session in sessions]
    await asyncio.sleep(0)
    commit(hub, log, *events(2, 3), here=False)
    hub.moved([EXECUTION])
    assert await asyncio.gather(*following) == [[2, 3]] * 50
    assert log.reads == [0, 1]
    for session in sessions:
        await session.aclose()
    assert (hub.subscribers, hub._reads) == (0, {})


async def test_who_asks_while_the_log_is_read_asks_anew(hub, log):
    log.free.clear()
    early = asyncio.ensure_future(hub.stored(log, ORG, EXECUTION, 0, PAGE))
    await log.reading.wait()
    commit(hub, log, event(1), here=False)
    late = asyncio.ensure_future(hub.stored(log, ORG, EXECUTION, 0, PAGE))
    early.cancel()
    await asyncio.sleep(0)
    log.free.set()
    assert [each.seq for each in await late] == [1]
    assert log.reads == [0, 0]


async def test_waiting_ends_with_the_terminal_event_and_reads_no_log(hub, log):
    waiting = asyncio.ensure_future(until_terminal(hub, log, ORG, EXECUTION, 20))
    await log.reading.wait()
    commit(hub, log, *events(1, 3))
    await asyncio.sleep(0)
    assert not waiting.done()
    commit(hub, log, *events(4, 5, ends=True))
    assert await waiting is True
    assert (log.reads, hub.subscribers) == ([], 0)


async def test_waiting_for_what_is_over_or_ends_elsewhere(hub, log):
    commit(hub, log, event(1), here=False)
    waiting = asyncio.ensure_future(until_terminal(hub, log, ORG, EXECUTION, 20))
    await log.reading.wait()
    commit(hub, log, *events(2, 3, ends=True), here=False)
    hub.moved([EXECUTION])
    assert await waiting is True
    assert await until_terminal(hub, log, ORG, EXECUTION, 20) is True


async def test_waiting_has_an_end(hub, log):
    assert await until_terminal(hub, log, ORG, EXECUTION, 0) is False
    assert await until_terminal(hub, log, ORG, EXECUTION, 0.001) is False
    assert hub.subscribers == 0


async def test_waiting_outlasts_a_database_that_is_away(hub, log, monkeypatch):
    monkeypatch.setattr("app.streaming.waiting.RETRY_SECONDS", 0)
    commit(hub, log, *events(1, 2, ends=True), here=False)
    log.error = Unavailable("away")
    waiting = asyncio.ensure_future(until_terminal(hub, log, ORG, EXECUTION, 20))
    await log.reading.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    log.error = None
    assert await waiting is True


async def test_silence_is_broken_by_heartbeats_and_a_stop_ends_it(hub, log):
    stop = asyncio.Event()
    commit(hub, log, *events(1, 2))
    beats = paced(follow(hub, log, ORG, EXECUTION), 0.001, stop)
    assert [each.seq for each in await anext(beats)] == [1, 2]
    assert await anext(beats) is None
    assert await anext(beats) is None
    commit(hub, log, event(3))
    while (batch := await anext(beats)) is None:
        pass
    assert [each.seq for each in batch] == [3]
    stop.set()
    assert [batch async for batch in beats if batch] == []
    assert hub.subscribers == 0


async def test_a_paced_session_ends_with_the_run_and_with_its_errors(hub, log):
    commit(hub, log, *events(1, 2, ends=True))
    beats = paced(follow(hub, log, ORG, EXECUTION), 20, asyncio.Event())
    assert [len(batch) async for batch in beats] == [2]
    log.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        await anext(paced(follow(hub, log, ORG, EXECUTION), 20, asyncio.Event()))
    assert hub.subscribers == 0


async def test_leaving_a_paced_session_while_it_reads_leaves_nothing_behind(hub, log):
    log.free.clear()
    beats = paced(follow(hub, log, ORG, EXECUTION), 0.001, asyncio.Event())
    assert await anext(beats) is None
    tasks = asyncio.all_tasks()
    await beats.aclose()
    assert hub.subscribers == 0
    assert len(asyncio.all_tasks()) < len(tasks)
