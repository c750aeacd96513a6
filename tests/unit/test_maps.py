"""`for_each`: every item has its attempts, the results keep their order, and never more run than may."""

import pytest

from app.domain.evolution import evolve
from app.domain.planner import plan
from app.domain.step_state import Succeeded
from tests.unit.runs import START, Run


def each(count: int = 3, **more: object) -> dict[str, object]:
    return {"id": "map", "for_each": [*range(count)], "with": {"n": "${{ item }}", "at": "${{ index }}"}, **more}


def test_items_run_side_by_side_and_no_more_than_may() -> None:
    run = Run(each(5, max_parallel=2))
    assert run.running == ["map[0]", "map[1]"]
    run.succeed("map[1]")
    assert run.running == ["map[0]", "map[2]"]
    assert [start.config for start in run.changes.starts] == [{"n": n, "at": n} for n in range(3)]


def test_results_are_in_the_order_of_the_items() -> None:
    run = Run(each(3))
    for index in (2, 0, 1):
        run.succeed(f"map[{index}]", f"r{index}")
    assert run.output == '["r0","r1","r2"]'
    assert run.snapshot.steps["map"].output == ["r0", "r1", "r2"]
    assert run.told.count("step_completed map") == 1


def test_no_items_are_an_empty_result() -> None:
    run = Run(each(0))
    assert (run.status, run.output) == ("COMPLETED", "[]")
    assert run.changes.attempts == []


def test_one_failed_item_fails_the_step_when_the_others_have_ended() -> None:
    run = Run(each(4, max_parallel=2)).fail("map[0]", "bad row")
    assert run.running == ["map[1]"]
    run.succeed("map[1]")
    assert (run.status, run.statuses) == ("FAILED", {"map": "FAILED"})
    assert run.data("execution_failed")["error_message"] == "Item 0: bad row"
    assert "map[2]" not in run.started


def test_once_an_item_has_failed_the_step_no_other_is_tried_again() -> None:
    run = Run(each(2)).fail("map[0]", "bad row").fail("map[1]", "busy", retryable=True)
    assert run.data("execution_failed")["error_message"] == "Item 0: bad row"
    assert not [told for told in run.told if told.startswith("step_retrying")]


def test_failed_items_are_null_where_the_step_goes_on() -> None:
    run = Run(each(3, on_item_error="continue")).fail("map[1]").succeed("map[0]", 1).succeed("map[2]", 3)
    assert (run.status, run.output) == ("COMPLETED", "[1,null,3]")
    assert run.told.count("step_failed map[1]") == 1


def test_an_item_has_its_own_attempts() -> None:
    run = Run(each(2)).fail("map[0]", retryable=True).succeed("map[1]", 1)
    assert run.statuses == {"map": "RUNNING"}
    assert run.status == "WAITING"
    run.go_on(1).succeed("map[0]", 0)
    assert run.output == "[0,1]"
    attempts = [(ended.path, ended.attempt, ended.status.value) for ended in run.changes.attempts]
    assert attempts == [("map[0]", 1, "FAILED"), ("map[1]", 1, "COMPLETED"), ("map[0]", 2, "COMPLETED")]


def test_items_can_wait_and_each_takes_one_signal() -> None:
    run = Run(each(3))
    for index in range(3):
        run.listen(f"map[{index}]", "go")
    run.signal("go", "a").signal("go", "b").signal("go", "c")
    assert [value["payload"] for value in run.snapshot.steps["map"].output] == ["a", "b", "c"]
    assert [path for _, path in run.changes.used] == ["map[0]", "map[1]", "map[2]"]


@pytest.mark.parametrize("value", ["text", {"a": 1}, 7, None])
def test_what_is_no_list_fails_the_step(value: object) -> None:
    run = Run({"id": "map", "for_each": "${{ input }}"}, input=value)
    assert run.ended_as == "for_each_not_a_list"


def test_more_items_than_may_fail_the_step() -> None:
    assert Run({"id": "map", "for_each": "${{ input }}"}, input=[0] * 10_001).ended_as == "too_many_items"


def test_planning_costs_what_is_under_way_not_all_items() -> None:
    """Each of 10,000 items is looked at a bounded number of times, so that the whole takes well under a second each."""
    run = Run({"id": "map", "for_each": "${{ input }}", "max_parallel": 10}, input=[*range(10_000)])
    decided = 0
    while not run.snapshot.status.terminal:
        for path in run.snapshot.running:
            run.snapshot.report(path, Succeeded(1, "1"), START)
        while decisions := plan(run.workflow, run.snapshot, START):
            decided += len(decisions)
            for decision in decisions:
                evolve(run.workflow, run.snapshot, decision, START, run.changes)
    assert run.status == "COMPLETED"
    assert decided <= 20_010
    assert len(run.events) < 200


def test_cancelling_ends_every_item_and_then_the_step() -> None:
    run = Run(each(3, max_parallel=2)).listen("map[0]").cancel().abort("map[1]")
    assert run.status == "CANCELLED"
    assert run.statuses == {"map": "CANCELLED"}
    assert [ended.status.value for ended in run.changes.attempts] == ["CANCELLED", "CANCELLED"]
