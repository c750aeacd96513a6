"""Breakpoints, stepping through, edited and pinned outputs, one step alone."""

import pytest

from app.domain.control import PauseReason
from tests.unit.runs import Run

LINE = ({"id": "a"}, {"id": "b", "needs": ["a"], "with": {"got": "${{ steps.a.output }}"}}, {"id": "c", "needs": ["b"]})


def test_a_run_pauses_before_a_breakpoint_and_goes_through_it_once() -> None:
    run = Run(*LINE, control={"breakpoints": ["b"]}).succeed("a")
    assert (run.status, run.started) == ("PAUSED", ["a"])
    assert run.data("execution_paused", "b")["reason"] == "breakpoint"
    run.resume()
    assert run.running == ["b"]
    run.fail("b", retryable=True).go_on(60)
    assert run.running == ["b"], "the next attempt is not another breakpoint"


def test_a_breakpoint_set_on_the_way_holds() -> None:
    run = Run(*LINE).mail("breakpoints", {"steps": ["c", "nowhere"]}).succeed("a").succeed("b")
    assert run.status == "PAUSED"
    assert run.snapshot.control.breakpoints == {"c"}


def test_breakpoints_taken_away_hold_no_more_and_hold_again_when_set_again() -> None:
    run = Run(*LINE, control={"breakpoints": ["b"]}).succeed("a")
    run.mail("breakpoints", {"steps": []}).resume()
    assert run.running == ["b"]
    run.fail("b", retryable=True).mail("breakpoints", {"steps": ["b"]}).go_on(60)
    assert run.status == "PAUSED"


def test_a_breakpoint_gone_through_holds_again_when_it_is_taken_away_and_set_again() -> None:
    run = Run(*LINE, control={"breakpoints": ["b"]}).succeed("a").resume().fail("b", retryable=True)
    run.mail("breakpoints", {"steps": []}).mail("breakpoints", {"steps": ["b"]}).go_on(60)
    assert (run.status, run.running) == ("PAUSED", [])


def test_resuming_before_the_run_is_paused_goes_through_the_breakpoint() -> None:
    """Another step is still under way when somebody presses resume."""
    run = Run({"id": "a"}, {"id": "b"}, control={"breakpoints": ["b"]})
    assert (run.status, run.running) == ("RUNNING", ["a"])
    assert run.snapshot.control.held
    assert run.resume().running == ["a", "b"]


def test_two_breakpoints_side_by_side_hold_one_after_the_other() -> None:
    run = Run({"id": "a"}, {"id": "b"}, control={"breakpoints": ["a", "b"]})
    assert (run.status, run.started) == ("PAUSED", [])
    assert (run.resume().running, run.snapshot.control.held) == (["a"], True)
    assert run.succeed("a").status == "PAUSED"
    assert run.resume().running == ["b"]


def test_a_breakpoint_holds_a_whole_map() -> None:
    run = Run({"id": "map", "for_each": [1, 2]}, control={"breakpoints": ["map"]})
    assert (run.status, run.started) == ("PAUSED", [])
    assert run.resume().running == ["map[0]", "map[1]"]


def test_nothing_else_starts_beside_a_breakpoint() -> None:
    run = Run(*({"id": f"s{n}"} for n in range(4)))
    for path in run.running:
        run.fail(path, retryable=True)
    run.mail("breakpoints", {"steps": ["s1"]}).go_on(60)
    assert run.snapshot.control.held
    assert run.running == ["s0"]
    assert run.told.count("execution_paused s1") == 0
    assert run.succeed("s0").status == "PAUSED"


def test_stepping_starts_exactly_one_step_each() -> None:
    run = Run(*LINE).pause().succeed("a")
    run.step()
    assert run.running == ["b"]
    run.succeed("b")
    assert run.status == "PAUSED"
    assert run.snapshot.control.pause is not None
    assert run.snapshot.control.pause.reason is PauseReason.STEPPING
    run.step().succeed("c")
    assert run.status == "COMPLETED"


def test_stepping_starts_one_of_many_and_one_item_of_a_map() -> None:
    run = Run({"id": "a"}, {"id": "b"}, begin=False).pause()
    assert run.step().running == ["a"]
    assert run.succeed("a").step().running == ["b"]
    run = Run({"id": "map", "for_each": [1, 2, 3]}, begin=False).pause()
    for index in range(3):
        assert run.step().running == [f"map[{index}]"]
        run.succeed(f"map[{index}]")
    assert run.status == "COMPLETED"


def test_stepping_makes_one_of_the_attempts_that_are_due() -> None:
    run = Run({"id": "a"}, {"id": "b"}).fail("a", retryable=True).fail("b", retryable=True).pause().go_on(60)
    assert run.step().running == ["a"]
    assert run.succeed("a").status == "PAUSED"


def test_after_stepping_resume_lets_it_go_on_freely() -> None:
    run = Run(*LINE).pause().succeed("a").step().succeed("b").resume().succeed("c")
    assert run.status == "COMPLETED"


def test_an_edited_output_is_what_the_next_step_sees() -> None:
    run = Run(*LINE).pause().succeed("a", "old").mail("edit", {"step_id": "a", "output": "new"}, user="ann").resume()
    assert run.changes.starts[-1].config == {"got": "new"}
    assert run.data("step_edited", "a")["edited_by"] == "ann"
    assert run.snapshot.steps["a"].edited_by == "ann"


@pytest.mark.parametrize("when", ["running", "seen"])
def test_an_output_that_may_have_been_looked_at_is_not_edited(when: str) -> None:
    run = Run(*LINE).succeed("a", "old")
    if when == "seen":
        run.pause().succeed("b")
        assert run.status == "PAUSED"
    run.mail("edit", {"step_id": "a", "output": "new"})
    assert run.snapshot.steps["a"].output == "old"
    assert "step_edited a" not in run.told


def test_a_step_not_reached_yet_gets_the_output_instead_of_running() -> None:
    run = Run(*LINE).mail("edit", {"step_id": "b", "output": {"x": 1}}).succeed("a")
    assert run.started == ["a", "c"]
    assert run.snapshot.steps["b"].output == {"x": 1}
    assert run.snapshot.steps["b"].reason == "pinned"
    assert run.told.count("step_pinned b") == 1
    assert "step_started b" not in run.told


def test_pins_of_the_start_count_as_done_and_choose_the_port_of_their_case() -> None:
    run = Run(
        {"id": "route", "type": "switch", "with": {"cases": {"hot": "true", "cold": "true"}}},
        {"id": "call", "needs": ["route.hot"]},
        {"id": "mail", "needs": ["route.cold"]},
        control={"pins": {"route": {"case": "hot"}}},
    )
    assert run.statuses == {"route": "COMPLETED", "call": "RUNNING", "mail": "SKIPPED"}
    assert run.snapshot.progress == 66


def test_one_step_alone_runs_with_the_outputs_it_is_given() -> None:
    run = Run(*LINE, control={"only": "b", "pins": {"a": "given"}})
    assert run.started == ["b"]
    assert run.changes.starts[0].config == {"got": "given"}
    run.succeed("b", "done")
    assert (run.status, run.output) == ("COMPLETED", '"done"')
    assert run.snapshot.steps["c"].reason == "not_selected"


def test_an_edit_of_an_unknown_step_changes_nothing() -> None:
    run = Run(*LINE).mail("edit", {"step_id": "x", "output": 1}).mail("edit", None)
    assert run.snapshot.control.pins == {}
