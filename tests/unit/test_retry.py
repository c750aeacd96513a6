"""When a failed attempt is made again."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.definition import RetryPolicy
from app.domain.durations import LONGEST
from app.domain.errors import Failure
from app.domain.retry import decide_retry

FAILURE = Failure("busy", "busy")


def policy(**changes: object) -> RetryPolicy:
    return RetryPolicy.model_validate({"jitter": "none", "max_attempts": 100, **changes})


@pytest.mark.parametrize(("failures", "delay"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (99, 60)])
def test_the_delay_doubles_up_to_its_maximum(failures: int, delay: float) -> None:
    assert decide_retry(policy(), FAILURE, failures, 0.0).delay == delay


def test_three_attempts_are_made_by_default() -> None:
    default = RetryPolicy()
    assert [decide_retry(default, FAILURE, failures, 0.5).delay for failures in (1, 2, 3)] == [0.5, 1.0, None]


def test_a_failure_that_will_not_pass_is_final() -> None:
    assert decide_retry(policy(), Failure("bad", "bad", retryable=False), 1, 0.5).delay is None
    assert decide_retry(policy(no_retry_on=["busy"]), FAILURE, 1, 0.5).delay is None


@pytest.mark.parametrize(
    ("asked", "delay"),
    [(None, 1), (0.2, 1), (30.0, 30), (-5.0, 1), (math.inf, LONGEST), (math.nan, 1), (1e12, LONGEST)],
)
def test_the_other_sides_wish_is_the_least_delay(asked: float | None, delay: float) -> None:
    assert decide_retry(policy(), Failure("busy", "busy", retry_after=asked), 1, 0.5).delay == delay


@given(
    initial=st.floats(0.001, 1_000),
    factor=st.floats(1, 100),
    longest=st.floats(0.001, 100_000),
    failures=st.integers(1, 99),
    jitter=st.floats(0, 1, exclude_max=True),
    after=st.none() | st.floats(0, 10_000),
)
def test_every_delay_follows_the_formula(
    initial: float, factor: float, longest: float, failures: int, jitter: float, after: float | None
) -> None:
    retry = policy(initial_interval=initial, factor=factor, max_interval=longest, jitter="full")
    try:
        grown = retry.initial_interval * factor ** (failures - 1)
    except OverflowError:
        grown = math.inf
    ceiling = min(retry.max_interval, grown)
    delay = decide_retry(retry, Failure("busy", "busy", retry_after=after), failures, jitter).delay
    assert delay == max(ceiling * jitter, after or 0.0)
    assert delay is not None
    assert delay <= max(retry.max_interval, after or 0.0)
