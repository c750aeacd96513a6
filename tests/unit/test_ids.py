"""Ids sort by the time they were made."""

from datetime import timedelta

from app import clock


def test_ids_sort_between_the_least_ones_of_the_times_around_them() -> None:
    before = clock.least_id("audit", clock.now() - timedelta(milliseconds=5))
    made = clock.new_id("audit")
    after = clock.least_id("audit", clock.now() + timedelta(milliseconds=5))
    assert before < made < after
    assert len(before) == len(made) == len(after)
