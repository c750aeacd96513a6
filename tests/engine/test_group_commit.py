"""Group commit alone: what shares a batch, what a refusal touches, what becomes of those who leave."""

import asyncio
from collections.abc import Sequence

import pytest

from app.db.group_commit import BATCH_BYTES, BATCH_ITEMS, GroupCommit, Refused
from app.domain.errors import Unavailable


class Writer:
    """Answers each item doubled; holds each write until let go, if told to; refuses negative numbers."""

    def __init__(self, *, holds: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.inside = asyncio.Event()
        self.free = asyncio.Event()
        if not holds:
            self.free.set()

    async def __call__(self, batch: Sequence[int]) -> Sequence[int | str]:
        self.batches.append(list(batch))
        self.inside.set()
        await self.free.wait()
        if any(item < 0 for item in batch):
            raise Refused("negative")
        return [item * 2 for item in batch]


@pytest.fixture
async def committing():
    started = []

    def begin(writer, **options):
        commit = GroupCommit(writer, lambda item, refusal: f"{item} is {refusal.detail}", **options)
        commit.start()
        started.append(commit)
        return commit

    yield begin
    for commit in started:
        await commit.stop(0)


async def test_a_lone_item_is_written_at_once(committing):
    writer = Writer()
    assert await committing(writer).submit(1) == 2
    assert writer.batches == [[1]]


async def test_what_arrives_during_a_write_is_the_next_batch(committing):
    writer = Writer(holds=True)
    commit = committing(writer)
    first = asyncio.ensure_future(commit.submit(0))
    await writer.inside.wait()
    others = [asyncio.ensure_future(commit.submit(item)) for item in (1, 2, 3)]
    await asyncio.sleep(0)
    writer.free.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6]
    assert writer.batches == [[0], [1, 2, 3]]


async def test_a_batch_is_bounded_by_size(committing):
    sizes = {1: BATCH_BYTES // 2, 2: BATCH_BYTES // 2, 3: 1, 4: BATCH_BYTES * 3, 5: 1}
    heavy = committing(writer := Writer(), weigh=sizes.__getitem__)
    assert await asyncio.gather(*map(heavy.submit, sizes)) == [2, 4, 6, 8, 10]
    assert writer.batches == [[1, 2], [3], [4], [5]]


@pytest.mark.parametrize(("crowd", "batch"), [(30, 30), (64, 32), (200, 100), (999, BATCH_ITEMS)])
async def test_half_of_a_large_crowd_computes_while_the_other_is_written(committing, crowd, batch):
    sizes: list[int] = []

    async def write(items):
        sizes.append(len(items))
        await asyncio.sleep(0)  # those who were answered before compute meanwhile
        return items

    commit = committing(write, by_halves=True)

    async def one_of_them() -> None:
        for _ in range(8):
            await commit.submit(0)

    await asyncio.gather(*(one_of_them() for _ in range(crowd)))
    assert max(sizes) == batch


async def test_a_batch_that_nobody_can_join_is_written_before_those_who_were_answered_compute(committing):
    told: list[str] = []

    async def write(items):
        told.append("written")
        await asyncio.sleep(0)
        return items

    commit = committing(write, by_halves=True)

    async def one_of_them() -> None:
        await commit.submit(0)
        told.append("answered")

    await asyncio.gather(*(one_of_them() for _ in range(64)))
    assert told[:2] == ["written", "written"]


async def test_only_the_refused_item_fails(committing):
    writer = Writer()
    commit = committing(writer)
    items = [1, 2, -3, 4, 5, 6, -7, 8]
    assert await asyncio.gather(*map(commit.submit, items)) == [2, 4, "-3 is negative", 8, 10, 12, "-7 is negative", 16]


async def test_an_error_of_the_write_reaches_all_of_its_batch_and_no_other(committing):
    failing = [True]

    async def write(batch):
        if failing.pop():
            failing.append(False)
            raise Unavailable("away")
        failing.append(False)
        return batch

    commit = committing(write)
    answers = await asyncio.gather(commit.submit(1), commit.submit(2), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["away", "away"]
    assert await commit.submit(3) == 3


async def test_who_leaves_cuts_neither_the_write_nor_its_neighbours(committing):
    writer = Writer(holds=True)
    commit = committing(writer)
    waiting = [asyncio.ensure_future(commit.submit(item)) for item in (1, 2)]
    await writer.inside.wait()
    late = asyncio.ensure_future(commit.submit(3))
    await asyncio.sleep(0)
    for leaving in (waiting[0], late):
        leaving.cancel()
    await asyncio.wait([waiting[0], late])
    writer.free.set()
    assert await waiting[1] == 4
    assert await commit.submit(4) == 8
    assert sorted(item for batch in writer.batches for item in batch) == [1, 2, 3, 4]


async def test_stopping_writes_what_is_under_way_and_what_is_gathered(committing):
    writer = Writer(holds=True)
    commit = committing(writer)
    first = asyncio.ensure_future(commit.submit(1))
    await writer.inside.wait()
    second = asyncio.ensure_future(commit.submit(2))
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(commit.stop())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await commit.submit(3)
    writer.free.set()
    await stopping
    assert (first.result(), second.result()) == (2, 4)


async def test_stopping_waits_no_longer_than_told_and_leaves_nobody_hanging(committing):
    writer = Writer(holds=True)
    commit = committing(writer)
    under_way = asyncio.ensure_future(commit.submit(1))
    await writer.inside.wait()
    gathered = asyncio.ensure_future(commit.submit(2))
    await asyncio.sleep(0)
    await commit.stop(0)
    for waiting in (under_way, gathered):
        with pytest.raises(Unavailable):
            await waiting


async def test_stopping_before_starting_and_twice_is_fine():
    commit = GroupCommit(Writer(), lambda item, refusal: item)
    await commit.stop()
    await commit.stop()
    commit.start()
    with pytest.raises(Unavailable):
        await commit.submit(1)
