"""The spans of a run cover its time: queueing, attempts, backoff, waits and pauses, without overlap in a step."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.states import AttemptStatus, StepStatus
from app.domain.timeline import AttemptTimes, Moment, RunTimes, Span, StepTimes, edge_taken, timeline

T0 = datetime(2026, 1, 1, tzinfo=UTC)
FAILED, COMPLETED, LOST = AttemptStatus.FAILED, AttemptStatus.COMPLETED, AttemptStatus.LOST


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


ENDED = RunTimes(at(0), at(1), at(100))
LIVE = RunTimes(at(0), at(1), None)


def shown(spans: list[Span]) -> list[tuple[Any, ...]]:
    """(step, kind, from, to, attempt or reason), times in seconds."""
    return [
        (
            span.step_id,
            span.kind,
            (span.start - T0).total_seconds(),
            None if span.end is None else (span.end - T0).total_seconds(),
            span.attempt if span.kind == "attempt" else span.reason,
        )
        for span in spans
    ]


def step(status: StepStatus = StepStatus.COMPLETED, attempt: int = 1, begun: float = 1, **more: Any) -> StepTimes:
    return StepTimes("a", status, attempt, attempt_started_at=at(begun), **more)


def attempt(number: int, start: float, end: float, status: AttemptStatus = COMPLETED) -> AttemptTimes:
    return AttemptTimes("a", number, status, at(start), at(end))


def of_step(*args: Any, run: RunTimes = ENDED) -> list[tuple[Any, ...]]:
    return [span for span in shown(timeline(run, *args)) if span[0] == "a"]


def test_the_run_queues_until_it_starts() -> None:
    assert shown(timeline(ENDED, [], [], [])) == [(None, "queue", 0, 1, None)]
    assert shown(timeline(RunTimes(at(0), None, None), [], [], [])) == [(None, "queue", 0, None, None)]
    assert shown(timeline(RunTimes(at(0), None, at(5)), [], [], [])) == [(None, "queue", 0, 5, None)]


def test_an_attempt_is_a_span() -> None:
    assert of_step([step(completed_at=at(3))], [attempt(1, 1, 3)], []) == [("a", "attempt", 1, 3, 1)]


def test_a_retry_is_attempt_backoff_attempt() -> None:
    attempts = [attempt(2, 5, 8), attempt(1, 1, 2, FAILED)]
    assert of_step([step(attempt=2, begun=5, completed_at=at(8))], attempts, []) == [
        ("a", "attempt", 1, 2, 1),
        ("a", "backoff", 2, 5, None),
        ("a", "attempt", 5, 8, 2),
    ]


def test_a_lost_worker_is_followed_by_a_queue() -> None:
    attempts = [attempt(1, 1, 2, LOST), attempt(2, 5, 8)]
    assert of_step([step(attempt=2, begun=5, completed_at=at(8))], attempts, [])[1] == ("a", "queue", 2, 5, None)


def test_what_goes_on_now_is_open() -> None:
    running = step(StepStatus.RUNNING)
    assert of_step([running], [], [], run=LIVE) == [("a", "attempt", 1, None, 1)]
    backing_off = step(StepStatus.WAITING, reason="retry")
    assert of_step([backing_off], [attempt(1, 1, 2, FAILED)], [], run=LIVE)[1:] == [("a", "backoff", 2, None, None)]
    second = step(StepStatus.RUNNING, attempt=2, begun=4)
    assert of_step([second], [attempt(1, 1, 2, FAILED)], [], run=LIVE) == [
        ("a", "attempt", 1, 2, 1),
        ("a", "backoff", 2, 4, None),
        ("a", "attempt", 4, None, 2),
    ]


def test_a_repeated_step_waits_between_its_turns() -> None:
    repeating = step(StepStatus.WAITING, reason="repeat")
    events = [Moment("step_waiting", "a", at(2), "repeat")]
    assert of_step([repeating], [attempt(1, 1, 2)], events, run=LIVE) == [
        ("a", "attempt", 1, 2, 1),
        ("a", "wait", 2, None, "repeat"),
    ]


@pytest.mark.parametrize("reason", ["delay", "signal", "approval", "child"])
def test_a_wait_is_told_apart_from_the_attempt_it_is_part_of(reason: str) -> None:
    events = [Moment("step_waiting", "a", at(2), reason)]
    open_step = step(StepStatus.WAITING, reason=reason)
    assert of_step([open_step], [], events, run=LIVE) == [("a", "attempt", 1, 2, 1), ("a", "wait", 2, None, reason)]
    assert of_step([step(completed_at=at(9))], [attempt(1, 1, 9)], events) == [
        ("a", "attempt", 1, 2, 1),
        ("a", "wait", 2, 9, reason),
    ]


def test_a_step_cancelled_in_its_backoff_ends_there() -> None:
    cancelled = step(StepStatus.CANCELLED, completed_at=at(4))
    assert of_step([cancelled], [attempt(1, 1, 2, FAILED)], [])[1:] == [("a", "backoff", 2, 4, None)]


def test_a_step_queues_from_when_its_needs_are_there() -> None:
    first = StepTimes("p", StepStatus.COMPLETED, 1, attempt_started_at=at(1), completed_at=at(3))
    late = step(begun=5, parents=("p",), completed_at=at(6))
    spans = of_step([first, late], [AttemptTimes("p", 1, COMPLETED, at(1), at(3)), attempt(1, 5, 6)], [])
    assert spans == [("a", "queue", 3, 5, None), ("a", "attempt", 5, 6, 1)]
    blocked = StepTimes("a", StepStatus.PENDING, parents=("p",))
    assert of_step([StepTimes("p", StepStatus.RUNNING), blocked], [], [], run=LIVE) == [], "its need is not there yet"
    skipped = StepTimes("a", StepStatus.SKIPPED, parents=("p",), completed_at=at(3))
    assert of_step([first, skipped], [], []) == []


def test_a_step_that_began_at_once_did_not_queue() -> None:
    first = StepTimes("p", StepStatus.COMPLETED, 1, attempt_started_at=at(1), completed_at=at(3))
    soon = step(begun=3.0002, parents=("p",), completed_at=at(6))
    spans = of_step([first, soon], [AttemptTimes("p", 1, COMPLETED, at(1), at(3)), attempt(1, 3.0002, 6)], [])
    assert [span[1] for span in spans] == ["attempt"]


def test_reused_steps_took_no_time_of_this_run() -> None:
    assert of_step([step(reused=True, completed_at=at(3))], [attempt(1, 1, 3)], []) == []


def test_pauses_are_spans_of_the_run() -> None:
    events = [
        Moment("execution_paused", None, at(2), "breakpoint"),
        Moment("execution_resumed", None, at(5)),
        Moment("execution_resumed", None, at(6)),
        Moment("execution_paused", None, at(8), "paused"),
    ]
    assert shown(timeline(LIVE, [], [], events))[1:] == [
        (None, "paused", 2, 5, "breakpoint"),
        (None, "paused", 8, None, "paused"),
    ]
    assert shown(timeline(ENDED, [], [], events))[-1] == (None, "paused", 8, 100, "paused"), "cancelled while paused"


@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5), st.sampled_from(AttemptStatus)), min_size=1, max_size=6),
    st.booleans(),
)
def test_spans_of_a_step_follow_each_other_without_gap_or_overlap(
    parts: list[tuple[float, float, AttemptStatus]], open_ended: bool
) -> None:
    clock, attempts = 1.0, []
    for number, (pause, length, status) in enumerate(parts, 1):
        clock += pause
        attempts.append(attempt(number, clock, clock + length, status))
        clock += length
    last = len(parts) + 1 if open_ended else len(parts)
    status = StepStatus.RUNNING if open_ended else StepStatus.COMPLETED
    row = StepTimes("a", status, last, attempt_started_at=at(clock + 1), completed_at=None if open_ended else at(clock))
    spans = [span for span in timeline(LIVE, [row], attempts, []) if span.step_id == "a"]
    for before, behind in pairwise(spans):
        assert before.end == behind.start
    assert (spans[-1].end is None) == open_ended


@pytest.mark.parametrize(
    ("status", "ports", "port", "taken"),
    [
        ("PENDING", set(), None, None),
        ("RUNNING", set(), "hot", None),
        ("COMPLETED", set(), None, True),
        ("COMPLETED", {"hot"}, "hot", True),
        ("COMPLETED", {"cold"}, "hot", False),
        ("FAILED", set(), None, True),
        ("FAILED", set(), "hot", False),
        ("SKIPPED", set(), None, False),
        ("CANCELLED", set(), None, False),
    ],
)
def test_an_edge_is_taken_as_the_planner_takes_it(
    status: str, ports: set[str], port: str | None, taken: bool | None
) -> None:
    assert edge_taken(port, StepTimes("p", StepStatus(status), ports=frozenset(ports))) is taken


def test_an_edge_of_a_step_not_reached_is_not_decided() -> None:
    assert edge_taken(None, None) is None


def test_the_approval_of_the_whole_run_is_a_wait_of_the_run() -> None:
    asked = [Moment("approval_requested", "a", at(3)), Moment("approval_requested", None, at(40))]
    assert shown(timeline(ENDED, [], [], asked))[1:] == [(None, "wait", 40, 100, "approval")]
    assert shown(timeline(LIVE, [], [], asked))[1:] == [(None, "wait", 40, None, "approval")]
