"""What people asked of a run survives its record."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain.control import (
    NO_BUDGET,
    Control,
    Gate,
    Pause,
    PauseReason,
    Stop,
    StopReason,
    control_from,
    control_json,
    with_budget,
)
from app.domain.definition import Budget
from app.domain.jsontext import decode, encode
from app.domain.waits import ApprovalWait
from tests.unit.runs import START

words = st.none() | st.text(min_size=1, max_size=5)
moments = st.none() | st.integers(0, 10**9).map(lambda n: START + timedelta(microseconds=n))
names = st.frozensets(st.sampled_from("abc"))
stops = st.builds(
    Stop, st.just(StopReason.CANCELLED), detail=words, user_id=words, forced=st.booleans(), code=words
)  # fmt: skip
pauses = st.builds(
    Pause, st.sampled_from(PauseReason), detail=words, user_id=words, at=words, since=moments, lifted=st.booleans(),
    lifted_by=words,
)  # fmt: skip
gates = st.builds(
    Gate, st.builds(ApprovalWait, st.just("appr_1"), st.text(max_size=5), quorum=st.integers(1, 3)), moments,
    st.booleans(),
)  # fmt: skip
budgets = st.just(NO_BUDGET) | st.builds(
    Budget, max_cost=st.none() | st.floats(0, 9), max_steps=st.integers(1, 9), max_tokens=st.none() | st.integers(0, 9)
)
controls = st.builds(
    Control, stop=st.none() | stops, pause=st.none() | pauses, gate=st.none() | gates, breakpoints=names, passed=names,
    steps_left=st.none() | st.integers(0, 1), only=words,
    pins=st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 2)),
    budget=budgets, frozen=st.floats(0, 9), hops=st.integers(0, 8),
)  # fmt: skip


@given(controls)
def test_every_fact_comes_back(control: Control) -> None:
    assert control_from(decode(encode(control_json(control)))) == control


def test_nothing_asked_is_nothing_stored() -> None:
    assert control_json(Control()) == {}
    assert control_from(None) == control_from({}) == Control()


@pytest.mark.parametrize("reason", [StopReason.TIMED_OUT, StopReason.QUEUE_EXPIRED])
def test_a_stop_that_follows_from_other_facts_is_not_stored(reason: StopReason) -> None:
    assert control_json(Control(stop=Stop(reason))) == {}


def test_new_limits_replace_old_ones_and_leave_the_others() -> None:
    changed = with_budget(Budget(max_cost=1, max_steps=3), {"max_steps": 9})
    assert (changed.max_cost, changed.max_steps) == (1, 9)
    with pytest.raises(ValidationError):
        with_budget(NO_BUDGET, {"max_steps": 0})
