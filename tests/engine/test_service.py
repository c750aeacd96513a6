"""Background loops: they survive what their work does, lose no wake-up, and end when told."""

import asyncio
from collections.abc import Callable

import pytest

from app.domain.errors import Unavailable
from app.engine import service as module
from app.engine.service import Service

NEVER = 1e6


class Work:
    """Counts its turns; may wait, and may fail."""

    def __init__(self) -> None:
        self.turns = 0
        self.turned = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()
        self.error: Callable[[], Exception] | None = None

    async def __call__(self) -> None:
        self.turns += 1
        self.turned.set()
        await self.free.wait()
        if self.error is not None:
            raise self.error()

    async def turn(self) -> None:
        """Wait for the next turn to begin."""
        self.turned.clear()
        await self.turned.wait()


@pytest.fixture
async def work():
    return Work()


@pytest.fixture
async def service(work):
    service = Service("test", work, NEVER)
    yield service
    work.free.set()
    await service.stop()


async def test_it_works_at_once_and_then_when_woken(service, work):
    service.start()
    service.start()
    await work.turn()
    service.wake()
    await work.turn()
    assert work.turns == 2


async def test_it_works_by_itself_at_its_interval(work):
    service = Service("test", work, 0.001)
    service.start()
    for _ in range(3):
        await work.turn()
    await service.stop()


async def test_a_wake_up_during_the_work_is_not_lost(service, work):
    work.free.clear()
    service.start()
    await work.turn()
    service.wake()
    work.free.set()
    await work.turn()
    assert work.turns == 2


@pytest.mark.parametrize("error", [lambda: Unavailable("away"), ZeroDivisionError])
async def test_an_error_does_not_end_it(service, work, error, monkeypatch):
    monkeypatch.setattr(module.clock, "jitter", lambda: -1.0)  # no pause at all
    work.error = error
    service.start()
    while work.turns < 1_100:  # 2.0 ** 1024 is no float any more
        await work.turn()
    work.error = None
    await work.turn()
    assert not service._task.done()


async def test_a_failing_loop_is_not_busy_and_waits_no_longer_than_its_interval(service, work, monkeypatch):
    monkeypatch.setattr(module.clock, "jitter", lambda: 1.0)
    pauses, timeout = [], asyncio.timeout

    def at_once(seconds):
        if asyncio.current_task().get_name() != service.name:
            return timeout(seconds)  # a server of other tests may live in this loop
        pauses.append(seconds)
        return timeout(0)

    monkeypatch.setattr(module.asyncio, "timeout", at_once)
    work.error = lambda: Unavailable("away")
    brief = Service("test", work, 0.7)
    for each in (service, brief):
        pauses.clear()
        work.turns = 0
        each.start()
        while work.turns < 12:
            await work.turn()
        await each.stop()
        assert pauses[:3] == [0.2, 0.4, min(0.8, each._interval)]
        assert max(pauses) == min(each._interval, 5.0)


async def test_stopping_lets_the_work_under_way_end(service, work):
    work.free.clear()
    service.start()
    await work.turn()
    stopping = asyncio.ensure_future(service.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    work.free.set()
    await stopping
    assert work.turns == 1
    service.wake()
    await service.stop()


async def test_stopping_cuts_work_that_hangs(service, work, monkeypatch):
    monkeypatch.setattr(module, "STOP_SECONDS", 0)
    work.free.clear()
    service.start()
    await work.turn()
    await service.stop()
    assert service._task.cancelled()


async def test_stopped_before_it_started_it_never_works(service, work):
    await service.stop()
    service.start()
    await asyncio.sleep(0)
    assert work.turns == 0
