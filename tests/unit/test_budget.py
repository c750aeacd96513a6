"""Budgets: a run that has used up what it may pauses before the next step, and goes on when it may use more."""

from dataclasses import replace

import pytest

from app.domain.budgets import SharedBudget, Spent, first_used_up
from app.domain.definition import Budget
from app.domain.evolution import evolve
from app.domain.planner import plan
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


TODAY = SharedBudget("organization", Budget(max_cost=2.0, max_steps=10), Spent(steps=9, cost=1.9))


def test_what_is_shared_with_others_holds_a_run_that_has_used_nothing() -> None:
    run = Run(*LINE, begin=False)
    run.snapshot.shared_budgets = (TODAY, replace(TODAY, used=Spent(cost=2.5)))
    assert (run.go_on().status, run.started) == ("PAUSED", [])
    assert run.data("budget_exceeded") == {"budget": "organization.max_cost", "limit": 2.0, "used": 2.5}
    run.snapshot.shared_budgets = ()
    assert run.resume().running == ["a"]


def test_the_limit_of_the_run_is_told_before_those_it_shares() -> None:
    used = Spent(steps=50, cost=9.0)
    found = first_used_up(Budget(max_steps=50), used, [replace(TODAY, used=used)])
    assert found is not None
    assert (found.budget, found.limit, found.used) == ("max_steps", 50, 50)
    assert first_used_up(Budget(), used, [TODAY]) is None


def test_steps_side_by_side_are_started_one_at_a_time_where_a_shared_budget_counts_them() -> None:
    run = Run(*WIDE, begin=False)
    run.snapshot.shared_budgets = (TODAY,)
    decided = [plan(run.workflow, run.snapshot, run.now)]
    evolve(run.workflow, run.snapshot, decided[0][0], run.now, run.changes)
    assert len(plan(run.workflow, run.snapshot, run.now)) == 1


def test_what_an_attempt_used_counts_once_and_waiting_uses_nothing() -> None:
    run = Run(*LINE).succeed("a", took=3.0, usage=Usage(7, 0.25))
    assert run.changes.spent == Spent(steps=2, seconds=3.0, tokens=7, cost=0.25)
    run.listen("b").go_on(600).mail("signal", 1, topic="go")
    assert run.changes.spent == Spent(steps=3, seconds=3.0, tokens=7, cost=0.25)
