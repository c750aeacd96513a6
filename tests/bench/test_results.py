"""What a table says follows from what was measured."""

import asyncio

import pytest

from app.bench.figures import milliseconds, percentile
from app.bench.results import Wanted, against, in_rounds


def test_a_ratio_is_that_of_rounds_not_of_medians():
    result = against("x", "/s", [10, 20, 90], [100, 40, 100], Wanted(0.75, 0.4, higher=True))
    assert (result.value, result.limit, result.ratio, result.verdict) == (20, 100, 0.5, "floor")


def test_there_is_no_ratio_to_what_was_too_small_to_measure():
    result = against("x", "ms", [1.0], [0.0], Wanted(1.5, 2.5))
    assert (result.ratio, result.verdict) == (None, None)


@pytest.mark.parametrize(
    ("wanted", "value", "verdict"),
    [
        (Wanted(0.75, 0.45, higher=True), 0.75, "goal"),
        (Wanted(0.75, 0.45, higher=True), 0.74, "floor"),
        (Wanted(0.75, 0.45, higher=True), 0.44, "below"),
        (Wanted(1.5, 2.5), 1.5, "goal"),
        (Wanted(1.5, 2.5), 2.5, "floor"),
        (Wanted(1.5, 2.5), 2.6, "below"),
        (Wanted(3.0, None), 9.0, "floor"),
    ],
)
def test_goal_and_floor(wanted, value, verdict):
    assert wanted.verdict(value) == verdict


def test_percentiles_lie_between_the_values():
    assert [percentile([3, 1, 2], percent) for percent in (0, 50, 75, 100)] == [1, 2, 2.5, 3]
    assert milliseconds([0.001, 0.003]) == {"p50_ms": 2.0, "p95_ms": 2.9, "p99_ms": 2.98}


async def test_turns_are_taken_back_and_forth():
    taken: list[str] = []

    async def turn(name: str) -> str:
        await asyncio.sleep(0)
        taken.append(name)
        return name

    measured = await in_rounds(2, {name: lambda name=name: turn(name) for name in ("a", "b")})
    assert taken == ["a", "b", "b", "a"]
    assert measured == {"a": ["a", "a"], "b": ["b", "b"]}
