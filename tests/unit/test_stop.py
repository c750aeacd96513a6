"""Cancel and terminate: at every point of a run they end it, once, and leave nothing open."""

import pytest

from app.domain.control import Stop, StopReason
from app.domain.events import TERMINAL_TYPES
from tests.unit.runs import Run

STEPS = (
    {"id": "a"},
    {"id": "map", "for_each": [1, 2, 3], "max_parallel": 2, "needs": ["a"]},
    {"id": "ask", "needs": ["a"]},
    {"id": "nap", "needs": ["a"]},
    {"id": "poll", "needs": ["a"], "repeat": {"until": "output.done", "interval": "9s"}},
    {"id": "pay", "type": "pay", "needs": ["map", "ask"]},
)
POINTS = (
    lambda run: run.go_on(),
    lambda run: run.fail("a", retryable=True),
    lambda run: run.go_on(5).succeed("a"),
    lambda run: run.succeed("map[0]"),
    lambda run: run.listen("map[1]", "go"),
    lambda run: run.ask("ask", quorum=2, seconds=90),
    lambda run: run.sleep("nap", 30),
    lambda run: run.succeed("poll", {"done": False}),
    lambda run: run.fail("map[2]", retryable=True),
    lambda run: run.go_on(5),
    lambda run: run.decide("approve", "ann"),
    lambda run: run.succeed("map[2]"),
    lambda run: run.signal("go"),
    lambda run: run.decide("approve", "bob"),
    lambda run: run.pause(),
    lambda run: run.go_on(10),
    lambda run: run.succeed("pay"),
    lambda run: run.resume(),
    lambda run: run.go_on(30).succeed("poll", {"done": True}),
)


def at(point: int) -> Run:
    run = Run(*STEPS, begin=False)
    for happens in POINTS[:point]:
        happens(run)
    return run


def test_without_a_stop_the_run_ends_well() -> None:
    run = at(len(POINTS))
    assert run.status == "COMPLETED", run.statuses
    assert {"PENDING", "RUNNING", "WAITING", "PAUSED"} == {at(point).status for point in range(len(POINTS))}


@pytest.mark.parametrize("kind", ["cancel", "terminate"])
@pytest.mark.parametrize("point", range(len(POINTS)))
def test_a_stop_ends_the_run_at_every_point(point: int, kind: str) -> None:
    run = at(point)
    started = len(run.started)
    run.mail(kind, {"reason": "enough"})
    if kind == "cancel":
        for path in run.running:
            assert run.status == "CANCELLING"
            run.abort(path)
    assert run.status == "CANCELLED"
    assert run.ended_as == ("execution_cancelled" if kind == "cancel" else "execution_terminated")
    assert len(run.started) == started, "nothing starts any more"
    assert [event.type for event in run.events if event.type in TERMINAL_TYPES] == ["execution_cancelled"]
    assert all(state.status.settled for state in run.snapshot.steps.values())
    assert all(not items.active for items in run.snapshot.maps.values())
    assert all(status != "PENDING" for _, status in run.approvals)
    ended = [(attempt.path, attempt.attempt) for attempt in run.changes.attempts]
    assert len(ended) == len(set(ended)) == len(run.started), "every attempt has ended, once"
    assert run.data("execution_cancelled")["reason"] == "enough"


@pytest.mark.parametrize("point", range(len(POINTS)))
def test_a_second_stop_changes_nothing_but_its_force(point: int) -> None:
    run = at(point).cancel("first")
    run.terminate("second")
    assert run.status == "CANCELLED"
    assert run.data("execution_cancelled")["reason"] == "first"
    assert run.told.count("execution_cancelling") <= 1
    events = len(run.events)
    run.cancel("third").pause().resume().signal()
    assert len(run.events) == events, "an ended run hears nothing"


def test_a_cancelled_run_waits_for_what_is_under_way_a_terminated_one_does_not() -> None:
    assert Run({"id": "a"}).cancel().status == "CANCELLING"
    assert Run({"id": "a"}).terminate().status == "CANCELLED"
    assert Run({"id": "a"}).cancel().terminate().status == "CANCELLED"


def test_what_ended_well_in_spite_of_the_cancellation_stays_so() -> None:
    run = Run({"id": "a"}, {"id": "b", "needs": ["a"]}).cancel().succeed("a", 1)
    assert (run.status, run.statuses) == ("CANCELLED", {"a": "COMPLETED", "b": "SKIPPED"})
    assert run.snapshot.progress == 50


def test_a_run_that_fails_while_it_is_cancelled_is_cancelled() -> None:
    run = Run({"id": "a"}, {"id": "b"}).cancel().fail("a", retryable=True).abort("b")
    assert (run.status, run.statuses) == ("CANCELLED", {"a": "FAILED", "b": "CANCELLED"})


def test_a_run_that_was_not_to_begin_shows_no_progress() -> None:
    run = Run({"id": "a"}, {"id": "b"}, begin=False)
    run.snapshot.may_run = False
    run.snapshot.control.stop = Stop(StopReason.QUEUE_EXPIRED)
    run.go_on()
    assert (run.status, run.ended_as, run.snapshot.progress) == ("FAILED", "queue_expired", 0)


@pytest.mark.parametrize("wish", ["sleep", "listen", "ask"])
def test_what_asks_to_wait_in_a_run_that_is_being_stopped_does_not_begin_to(wish: str) -> None:
    run = Run({"id": "a"}, {"id": "b"}).cancel()
    match wish:
        case "sleep":
            run.sleep("a", 30)
        case "listen":
            run.listen("a")
        case _:
            run.ask("a")
    assert (run.status, run.statuses["a"], run.approvals) == ("CANCELLING", "CANCELLED", [])
    assert "step_waiting a" not in run.told
    assert run.abort("b").status == "CANCELLED"
