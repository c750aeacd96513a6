"""Budgets: a run that has used up what it may pauses before the next step, and goes on when it may use more."""

import pytest

from app.domain.steps import Usage
from tests.unit.runs import Run

LINE = ({"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "c", "needs": ["b"]})
WIDE = tuple({"id": f"s{n}"} for n in range(5))


@pytest.mark.parametrize(
    ("budget", "usage"),
    [({"max_cost": 1.0}, Usage(0, 0.5)), ({"max_tokens": 20}, Usage(10, 0)), ({"max_steps": 2}, Usage())],
)
def test_cost_tokens_and_steps_are_counted(budget: dict[str, float], usage: Usage) -> None:
    run = Run(*LINE, control={"budget": budget}).succeed("a", usage=usage).succeed("b", usage=usage)
    assert (run.status, run.started) == ("PAUSED", ["a", "b"])
    (name,) = budget
    assert run.data("budget_exceeded") == {"budget": name, "limit": budget[name], "used": budget[name]}
    assert run.data("execution_paused")["reason"] == "budget_exceeded"


def test_the_time_paused_is_not_used() -> None:
    run = Run(*LINE, control={"budget": {"max_duration": "60s"}}).go_on(30).pause().succeed("a").go_on(600).resume()
    assert run.running == ["b"]
    assert run.go_on(30).succeed("b").status == "PAUSED"


def test_resuming_without_raising_pauses_again() -> None:
    run = Run(*LINE, control={"budget": {"max_steps": 1}}).succeed("a").resume()
    assert (run.status, run.started) == ("PAUSED", ["a"])


def test_raised_and_resumed_it_goes_on() -> None:
    run = Run(*LINE, control={"budget": {"max_steps": 1}}).succeed("a").mail("budget", {"max_steps": 3})
    assert run.status == "PAUSED"
    assert run.resume().succeed("b").succeed("c").status == "COMPLETED"


def test_a_budget_that_is_no_budget_changes_nothing() -> None:
    run = Run(*LINE, control={"budget": {"max_steps": 1}}).mail("budget", {"max_steps": -1}).mail("budget", {"x": 1})
    assert run.snapshot.control.budget.max_steps == 1


def test_steps_side_by_side_never_exceed_it() -> None:
    run = Run(*WIDE, control={"budget": {"max_steps": 3}})
    assert len(run.started) == 3
    for path in run.running:
        run.succeed(path)
    assert (run.status, len(run.started)) == ("PAUSED", 3)


def test_attempts_that_are_due_at_once_never_exceed_it() -> None:
    run = Run(*WIDE[:3], control={"budget": {"max_steps": 4}})
    for path in run.running:
        run.fail(path, retryable=True)
    run.go_on(60)
    assert len(run.started) == 4
    assert run.told.count("budget_exceeded s1") == 1
    assert run.succeed("s0").status == "PAUSED"


def test_items_of_two_steps_never_exceed_it() -> None:
    maps = ({"id": "x", "for_each": [1, 2, 3]}, {"id": "y", "for_each": [1, 2, 3]})
    for limit in range(1, 7):
        run = Run(*maps, control={"budget": {"max_steps": limit}})
        assert len(run.started) == limit
        for path in run.running:
            run.succeed(path)
        assert (run.status, len(run.started)) == ("PAUSED" if limit < 6 else "COMPLETED", limit)
        assert sum(kind.startswith("budget_exceeded") for kind in run.told) == (1 if limit < 6 else 0)
