"""How much is taken on at once."""

import pytest

from app.api.admission import Admission
from app.domain.errors import Throttled, Unavailable
from app.streaming.places import StreamPlaces


def refused(error: pytest.ExceptionInfo[Unavailable]) -> tuple[str, int]:
    return error.value.error_code, error.value.retry_after


def test_there_are_so_many_places_and_who_leaves_twice_leaves_once() -> None:
    admission = Admission(2, 0, 1 << 20)
    first, _second = admission.enter(0), admission.enter(0)
    with pytest.raises(Unavailable) as overloaded:
        admission.enter(0)
    assert refused(overloaded) == ("overloaded", 1)
    first.leave()
    first.leave()
    admission.enter(0)
    with pytest.raises(Unavailable):
        admission.enter(0)


def test_bodies_are_bounded_together_and_a_lone_large_one_passes() -> None:
    admission = Admission(10, 0, 1_000)
    large = admission.enter(2_000)
    with pytest.raises(Unavailable):
        admission.enter(1)
    large.leave()
    admission.enter(600)
    admission.enter(400)
    with pytest.raises(Unavailable):
        admission.enter(1)


def test_one_organisation_leaves_places_for_others() -> None:
    admission = Admission(4, 0, 1 << 20)
    held = [admission.enter(0) for _ in range(4)]
    for place in held[:3]:
        place.claim("org_a")
        place.claim("org_a")
    with pytest.raises(Unavailable):
        held[3].claim("org_a")
    held[3].claim("org_b")
    held[0].leave()
    admission.enter(0).claim("org_a")


def test_who_waits_holds_no_place_and_too_many_do_not_wait() -> None:
    admission = Admission(1, 1, 1 << 20)
    waiting = admission.enter(0)
    with waiting.waiting() as may_wait:
        assert may_wait
        other = admission.enter(0)
        with other.waiting() as may_wait:
            assert not may_wait
        with pytest.raises(Unavailable):
            admission.enter(0)
    other.leave()
    with admission.enter(0).waiting() as may_wait:
        assert may_wait


def test_streams_are_counted_for_the_user_and_for_the_organisation() -> None:
    places = StreamPlaces(per_user=2, per_org=3)
    with places.taken("org", "ann"), places.taken("org", "ann"):
        with pytest.raises(Throttled) as too_many, places.taken("org", "ann"):
            pass
        assert too_many.value.error_code == "too_many_streams"
        with places.taken("org", "bob"):
            with pytest.raises(Throttled), places.taken("org", "cid"):
                pass
            with places.taken("elsewhere", "ann"):
                pass
    assert not places._open
    unlimited = StreamPlaces(0, 0)
    with unlimited.taken("org", "ann"), unlimited.taken("org", "ann"):
        pass
