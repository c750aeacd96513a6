"""A target that fails is left in peace, one that is slow takes its share and no more, and nobody else feels either."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from functools import partial

import pytest
from step_fakes import LOOPBACK, SpyContext, always, answer, door, serve

from app import clock
from app.domain.errors import StepError
from app.steps.http_request import HttpRequestStep
from app.steps.outbound import system_resolver
from app.steps.targets import FAILURES, LONGEST_REST, Targets

HERE, THERE = "http://here:80", "http://there:80"


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock()
    monkeypatch.setattr(clock, "monotonic", stopped)
    return stopped


async def ask(targets: Targets, *, fails: bool, org: str = "a", origin: str = HERE, retryable: bool = True) -> str:
    """One request; the code it failed with, or `ok`."""
    try:
        async with targets.turn(org, origin):
            _answer(fails, retryable)
    except StepError as error:
        return error.error_code
    return "ok"


def _answer(fails: bool, retryable: bool) -> None:
    if fails:
        raise StepError("no", code="failed", retryable=retryable)


async def test_after_so_many_failures_nothing_is_asked_for_a_while(time: Clock) -> None:
    targets = Targets()
    assert {await ask(targets, fails=True) for _ in range(FAILURES)} == {"failed"}
    with pytest.raises(StepError) as refused:
        async with targets.turn("a", HERE):
            raise AssertionError
    assert (refused.value.error_code, refused.value.retryable) == ("target_failing", True)
    assert refused.value.retry_after is not None
    assert refused.value.retry_after > 1.0
    assert await ask(targets, fails=False, org="b") == "ok"
    assert await ask(targets, fails=False, origin=THERE) == "ok"


async def test_one_goes_to_see_and_the_first_sign_of_life_ends_the_rest(time: Clock) -> None:
    targets, inside = Targets(), asyncio.Event()
    for _ in range(FAILURES):
        await ask(targets, fails=True)
    time.now += 1.1
    async with targets.turn("a", HERE):
        assert await ask(targets, fails=False) == "target_failing"
        inside.set()
    assert inside.is_set()
    assert {await ask(targets, fails=True) for _ in range(FAILURES - 1)} == {"failed"}


async def test_each_rest_is_longer_up_to_a_minute(time: Clock) -> None:
    targets = Targets()
    for _ in range(FAILURES):
        await ask(targets, fails=True)
    rests = []
    for _ in range(9):
        before = time.now
        while await ask(targets, fails=True) == "target_failing":
            time.now += 0.5
        rests.append(time.now - before)
    assert rests == [1, 2, 4, 8, 16, 32, LONGEST_REST, LONGEST_REST, LONGEST_REST]


async def test_a_refusal_that_says_why_is_a_sign_of_life(time: Clock) -> None:
    targets = Targets()
    for _ in range(3):
        assert {await ask(targets, fails=True) for _ in range(FAILURES - 1)} == {"failed"}
        assert await ask(targets, fails=True, retryable=False) == "failed"


async def test_a_look_that_is_broken_off_is_made_by_the_next_one(time: Clock) -> None:
    targets, began = Targets(), asyncio.Event()
    for _ in range(FAILURES):
        await ask(targets, fails=True)
    time.now += 1.1

    async def hang() -> None:
        async with targets.turn("a", HERE):
            began.set()
            await asyncio.Event().wait()

    looking = asyncio.create_task(hang())
    await began.wait()
    looking.cancel()
    await asyncio.wait([looking])
    assert await ask(targets, fails=False) == "ok"


async def test_places_are_few_and_nothing_is_kept_of_who_has_left() -> None:
    targets, free = Targets(per_target=2, per_organisation=3), asyncio.Event()
    inside: list[str] = []

    async def stay(org: str, origin: str) -> None:
        async with targets.turn(org, origin):
            inside.append(f"{org}:{origin}")
            await free.wait()

    asked = [("a", HERE)] * 4 + [("a", THERE)] * 4 + [("b", HERE)] * 2
    staying = [asyncio.create_task(stay(*who)) for who in asked]
    for _ in range(10):
        await asyncio.sleep(0)
    assert sorted(inside) == [f"a:{HERE}"] * 2 + [f"a:{THERE}"] + [f"b:{HERE}"] * 2
    staying[3].cancel()
    free.set()
    await asyncio.wait(staying)
    assert len(inside) == len(asked) - 1
    assert (dict(targets._targets), targets._organisations) == ({}, {})


async def test_a_thousand_runs_that_retry_hardly_touch_a_target_that_is_down() -> None:
    async with serve(always(answer(500, b"no"))) as server, door(server.port) as outbound:
        step = HttpRequestStep(outbound, 1_000)
        step._targets = Targets(per_target=8)

        async def run() -> None:
            for attempt in range(3):
                with pytest.raises(StepError):
                    await step.run(SpyContext(attempt=attempt), {"url": server.url()})

        await asyncio.gather(*(run() for _ in range(1_000)))
        assert FAILURES <= len(server.requests) <= FAILURES + 8


@pytest.fixture
def stuck_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's resolver gives no answer for one name until the test is over."""
    over, ask = threading.Event(), socket.getaddrinfo

    def slow(host: str, *more: object, **named: object) -> object:
        if host == "stuck.test":
            over.wait(20)
        return partial(ask, host, *more, **named)()  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    yield
    over.set()


@pytest.mark.usefixtures("stuck_names")
async def test_names_that_do_not_resolve_keep_nobody_from_the_database() -> None:
    """The event loop's own threads are few, and the driver needs one to connect by name."""
    stuck = [asyncio.create_task(system_resolver("stuck.test", 80)) for _ in range(40)]
    try:
        async with asyncio.timeout(10):
            assert await asyncio.get_running_loop().getaddrinfo(LOOPBACK, 5432)
    finally:
        for task in stuck:
            task.cancel()
        await asyncio.wait(stuck)
