"""The estimate weighs steps by the time they usually take, and says nothing where nothing is known."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.estimate import UNKNOWN, Estimate, StepNow, estimate
from app.domain.states import ExecutionStatus as Is
from app.domain.states import StepStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DONE, RUNNING, PENDING, WAITING = StepStatus.COMPLETED, StepStatus.RUNNING, StepStatus.PENDING, StepStatus.WAITING


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_without_history_nothing_is_known() -> None:
    steps = [StepNow("a", DONE), StepNow("b", RUNNING, since=NOW, needs=("a",))]
    assert estimate(Is.RUNNING, steps, {}, NOW) == UNKNOWN
    assert estimate(Is.COMPLETED, steps, {}, NOW) == Estimate(100.0, None)


def test_a_long_step_weighs_more_than_a_short_one() -> None:
    history = {"a": 1_000.0, "b": 9_000.0}
    steps = [StepNow("a", DONE), StepNow("b", PENDING, needs=("a",))]
    assert estimate(Is.RUNNING, steps, history, NOW) == Estimate(10.0, after(9))


def test_a_running_step_counts_by_the_time_it_has_run() -> None:
    history = {"a": 10_000.0}
    half = estimate(Is.RUNNING, [StepNow("a", RUNNING, since=after(-5))], history, NOW)
    assert half == Estimate(50.0, after(5))
    late = estimate(Is.RUNNING, [StepNow("a", RUNNING, since=after(-60))], history, NOW)
    assert late == Estimate(95.0, NOW), "later than usual, but not done"


def test_steps_side_by_side_take_as_long_as_the_longest() -> None:
    history = {"a": 1_000.0, "b": 4_000.0, "c": 2_000.0}
    steps = [StepNow("a", PENDING), StepNow("b", PENDING), StepNow("c", PENDING, needs=("a", "b"))]
    assert estimate(Is.RUNNING, steps, history, NOW).eta == after(6)


def test_a_known_time_to_wait_is_taken_as_it_is() -> None:
    history = {"a": 1_000.0}
    delay = StepNow("a", WAITING, "delay", after(-1), after(30))
    assert estimate(Is.WAITING, [delay], history, NOW).eta == after(30)
    retry = StepNow("a", WAITING, "retry", after(-1), after(30))
    assert estimate(Is.WAITING, [retry], history, NOW).eta == after(31)


def test_who_waits_for_people_longer_than_usual_has_no_end_in_sight() -> None:
    history = {"ask": 60_000.0}
    soon = StepNow("ask", WAITING, "approval", after(-20))
    assert estimate(Is.WAITING, [soon], history, NOW).eta == after(40)
    late = StepNow("ask", WAITING, "approval", after(-90))
    assert estimate(Is.WAITING, [late], history, NOW).eta is None


@pytest.mark.parametrize("status", [Is.PENDING, Is.PAUSED, Is.CANCELLING, Is.FAILED, Is.CANCELLED])
def test_who_does_not_move_has_no_eta(status: Is) -> None:
    steps = [StepNow("a", DONE), StepNow("b", PENDING, needs=("a",))]
    assert estimate(status, steps, {"a": 1_000.0, "b": 1_000.0}, NOW) == Estimate(50.0, None)


def test_what_the_end_of_the_run_cut_off_is_not_progress() -> None:
    history = dict.fromkeys("abcd", 1_000.0)
    steps = [
        StepNow("a", DONE),
        StepNow("b", StepStatus.CANCELLED),
        StepNow("c", StepStatus.SKIPPED, "execution_failed"),
        StepNow("d", StepStatus.SKIPPED, "not_taken"),
    ]
    assert estimate(Is.FAILED, steps, history, NOW).weighted_progress == 50.0


def test_a_new_step_counts_like_the_mean_of_the_others() -> None:
    steps = [StepNow("a", DONE), StepNow("b", DONE), StepNow("new", PENDING)]
    assert estimate(Is.RUNNING, steps, {"a": 1_000.0, "b": 3_000.0}, NOW) == Estimate(66.7, after(2))


STEPS = st.lists(
    st.builds(
        StepNow,
        step_id=st.sampled_from("abcdef"),
        status=st.sampled_from(StepStatus),
        reason=st.none() | st.sampled_from(["retry", "delay", "signal", "not_taken", "execution_failed"]),
        since=st.none() | st.integers(-100, 100).map(after),
        wake_at=st.none() | st.integers(-100, 100).map(after),
        needs=st.lists(st.sampled_from("abcdef"), max_size=2).map(tuple),
    ),
    max_size=6,
    unique_by=lambda step: step.step_id,
)
HISTORY = st.dictionaries(st.sampled_from("abcdef"), st.floats(-1, 1e7))


@given(st.sampled_from(Is), STEPS, HISTORY)
def test_progress_is_a_percentage_and_the_end_is_not_in_the_past(
    status: Is, steps: list[StepNow], history: dict[str, float]
) -> None:
    found = estimate(status, steps, history, NOW)
    assert found.weighted_progress is None or 0 <= found.weighted_progress <= 100
    assert found.eta is None or found.eta >= NOW
    if status.terminal:
        assert found.eta is None
