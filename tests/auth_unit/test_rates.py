import pytest
from auth_fakes import FakeClock

from app.auth.errors import RateExceeded
from app.auth.rates import Rate


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_a_burst_may_use_it_all_and_then_goes_on_evenly(clock: FakeClock) -> None:
    rate = Rate("requests", 10, 5, monotonic=clock.monotonic)
    standings = [rate.count("a") for _ in range(10)]
    assert [standing.remaining for standing in standings if standing] == list(range(9, -1, -1))
    with pytest.raises(RateExceeded) as exceeded:
        rate.count("a")
    assert (exceeded.value.error_code, exceeded.value.retry_after) == ("rate_limited", 1)
    assert (exceeded.value.standing.limit, exceeded.value.standing.period) == (10, 5)
    for _ in range(20):
        clock.advance(0.5)
        rate.count("a")
        with pytest.raises(RateExceeded):
            rate.count("a")


def test_refused_times_are_not_counted_and_others_are_not_touched(clock: FakeClock) -> None:
    rate = Rate("requests", 1, 10, monotonic=clock.monotonic)
    rate.count("a")
    for _ in range(100):
        with pytest.raises(RateExceeded) as exceeded:
            rate.count("a")
    assert exceeded.value.retry_after == 10
    rate.count("b")
    clock.advance(10)
    standing = rate.count("a")
    assert standing is not None
    assert (standing.remaining, standing.reset) == (0, 10)


def test_what_is_remembered_is_bounded_and_0_is_no_limit(clock: FakeClock) -> None:
    rate = Rate("requests", 1, 10, monotonic=clock.monotonic, capacity=3)
    for key in "abcd":
        rate.count(key)
    assert list(rate._ends) == ["b", "c", "d"]
    unlimited = Rate("requests", 0, 10, monotonic=clock.monotonic)
    assert [unlimited.count("a") for _ in range(100)] == [None] * 100
