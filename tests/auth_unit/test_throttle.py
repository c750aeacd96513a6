import pytest
from auth_fakes import FakeClock

from app.auth.throttle import SignInThrottle
from app.domain.errors import Throttled


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def throttle(clock: FakeClock) -> SignInThrottle:
    return SignInThrottle(monotonic=clock.monotonic)


def test_the_eleventh_failure_of_an_account_within_a_minute_waits(clock: FakeClock, throttle: SignInThrottle) -> None:
    for _ in range(10):
        throttle.admit("a@example.org", None)
        clock.advance(1)
    with pytest.raises(Throttled) as throttled:
        throttle.admit("a@example.org", None)
    assert (throttled.value.error_code, throttled.value.retry_after) == ("rate_limited", 50)
    throttle.admit("b@example.org", None)
    clock.advance(49.5)
    with pytest.raises(Throttled):
        throttle.admit("a@example.org", None)
    clock.advance(0.5)
    throttle.admit("a@example.org", None)
    with pytest.raises(Throttled):
        throttle.admit("a@example.org", None)


def test_refused_attempts_do_not_lengthen_the_wait(clock: FakeClock, throttle: SignInThrottle) -> None:
    for _ in range(10):
        throttle.admit("a@example.org", None)
    for _ in range(1000):
        with pytest.raises(Throttled):
            throttle.admit("a@example.org", None)
    clock.advance(60)
    throttle.admit("a@example.org", None)


@pytest.mark.parametrize(
    ("addresses", "same"),
    [
        (["192.0.2.1"], True),
        (["2001:db8::1", "2001:db8::ffff"], True),
        (["::ffff:192.0.2.1", "192.0.2.1"], True),
        (["192.0.2.1", "192.0.2.2"], False),
        (["2001:db8::1", "2001:db8:0:1::1"], False),
        (["no address"], True),
    ],
)
def test_many_accounts_from_one_address_wait_after_thirty(
    throttle: SignInThrottle, addresses: list[str], same: bool
) -> None:
    for number in range(30):
        throttle.admit(f"{number}@example.org", addresses[number % len(addresses)])
    if same:
        with pytest.raises(Throttled):
            throttle.admit("new@example.org", addresses[-1])
    else:
        throttle.admit("new@example.org", addresses[-1])


def test_an_account_behind_a_blocked_address_is_not_blocked_elsewhere(throttle: SignInThrottle) -> None:
    for number in range(30):
        throttle.admit(f"{number}@example.org", "192.0.2.1")
    for _ in range(50):
        with pytest.raises(Throttled):
            throttle.admit("a@example.org", "192.0.2.1")
    throttle.admit("a@example.org", "192.0.2.2")


def test_attempts_that_turn_out_well_do_not_count(throttle: SignInThrottle) -> None:
    for _ in range(100):
        throttle.withdraw(throttle.admit("a@example.org", "192.0.2.1"))
    assert not throttle._accounts._failures
    assert not throttle._networks._failures


def test_withdrawing_a_success_leaves_the_failures_around_it(clock: FakeClock, throttle: SignInThrottle) -> None:
    for number in range(10):
        attempt = throttle.admit("a@example.org", None)
        clock.advance(1)
        if number == 4:
            throttle.withdraw(attempt)
    throttle.admit("a@example.org", None)
    with pytest.raises(Throttled):
        throttle.admit("a@example.org", None)


def test_memory_is_bounded_and_the_longest_quiet_is_forgotten_first(clock: FakeClock) -> None:
    throttle = SignInThrottle(monotonic=clock.monotonic, per_account=1, capacity=3)
    for account in ("a", "b", "c", "d"):
        throttle.admit(account, None)
    assert len(throttle._accounts._failures) == 3
    with pytest.raises(Throttled):
        throttle.admit("b", None)
    throttle.admit("a", None)
