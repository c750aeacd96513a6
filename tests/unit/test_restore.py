"""From the record back to the facts: what was carried over, what was lost, and what items had come to."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from app.domain.compiled import CompiledWorkflow
from app.domain.control import StopReason
from app.domain.jsontext import encode
from app.domain.step_state import Lost
from app.domain.steps import Usage
from app.engine.ports import Claim
from app.engine.restore import restore
from app.engine.rows import StoredStep
from tests.unit.runs import START, Run, compiled


def stored(path: str, status: str = "COMPLETED", **more: Any) -> StoredStep:
    ended = START if status in {"COMPLETED", "FAILED", "SKIPPED"} else None
    row = StoredStep(
        path=path, status=status, attempt=1, failures=0, input_text="{}", output_text=None, ports=frozenset(),
        error=None, error_code=None, reason=None, wake_at=None, started_at=START, attempt_started_at=START,
        completed_at=ended, execution_time_ms=1.0, tokens_used=0, cost=0.0,
    )  # fmt: skip
    return replace(row, **more)


def claim(*steps: StoredStep, status: str = "RUNNING", **more: Any) -> Claim:
    return Claim(
        id="exec_2", org_id="org_1", workflow_id="wf_1", workflow_version=1, user_id="user_1", root_id="exec_1",
        status=status, input_text="null", agent_results_text="{}", progress=0, created_at=START, started_at=None,
        deadline_at=None, last_recorded_at=None, owner="w", epoch=1, write_no=1, next_seq=2, recoveries=0,
        claimed_at=START, steps=steps, **more,
    )  # fmt: skip


def begun(workflow: CompiledWorkflow, found: Claim) -> Run:
    run = Run({"id": "none"}, begin=False)
    run.workflow, run.snapshot = workflow, restore(workflow, found)
    return run.go_on()


def test_what_is_carried_over_is_told_and_does_not_run_again() -> None:
    workflow = compiled({"id": "a"}, {"id": "b", "needs": ["a"], "with": {"got": "${{ steps.a.output }}"}})
    run = begun(workflow, claim(stored("a", output_text="7", reused_from="exec_1"), status="PENDING"))
    assert run.told == ["execution_started", "step_reused a", "step_started b"]
    assert run.data("step_reused")["progress"] == 50
    assert run.changes.starts[0].config == {"got": 7}
    assert run.snapshot.starts == 1, "what is carried over used no budget"


def test_only_the_items_that_are_missing_run() -> None:
    workflow = compiled({"id": "map", "for_each": ["x", "y", "z"]})
    items = [stored(f"map[{n}]", output_text=f'"{n}"', reused_from="exec_1") for n in (0, 2)]
    run = begun(workflow, claim(*items, status="PENDING"))
    assert run.running == ["map[1]"]
    assert run.succeed("map[1]", "1").output == '["0","1","2"]'


def test_a_map_none_of_whose_items_had_begun_goes_on() -> None:
    workflow = compiled({"id": "map", "for_each": ["x"]})
    run = begun(workflow, claim(stored("map", "RUNNING", items=1, attempt=0)))
    assert run.running == ["map[0]"]


def test_the_first_item_that_failed_is_told_whatever_the_order_of_the_rows() -> None:
    workflow = compiled({"id": "map", "for_each": ["x", "y", "z"]})
    rows = [
        stored("map", "RUNNING", items=3, attempt=0),
        stored("map[0]", "FAILED", error="later", error_code="x", completed_at=START + timedelta(seconds=9)),
        stored("map[1]", "FAILED", error="first", error_code="x", completed_at=START + timedelta(seconds=1)),
    ]
    for found in (claim(*rows), claim(*reversed(rows))):
        run = begun(workflow, found)
        assert run.status == "FAILED"
        assert run.data("execution_failed")["error_message"] == "Item 1: first"
        assert run.started == []


def test_an_item_that_may_fail_keeps_no_other_from_starting_after_a_restart() -> None:
    workflow = compiled({"id": "map", "for_each": ["x", "y"], "on_item_error": "continue"})
    rows = [
        stored("map", "RUNNING", items=2, attempt=0),
        stored("map[0]", "FAILED", error="no", error_code="x"),
    ]
    run = begun(workflow, claim(*rows))
    assert run.running == ["map[1]"]
    assert run.succeed("map[1]", 1).output == "[null,1]"


def test_the_first_step_that_failed_is_the_failure_of_the_run_whatever_the_order_of_the_rows() -> None:
    workflow = compiled({"id": "a"}, {"id": "b"})
    rows = [
        stored("a", "FAILED", error="later", error_code="x", completed_at=START + timedelta(seconds=9)),
        stored("b", "FAILED", error="first", error_code="x", completed_at=START + timedelta(seconds=1)),
    ]
    for found in (claim(*rows), claim(*reversed(rows))):
        assert begun(workflow, found).data("execution_failed")["error_message"] == "first"


def test_a_lost_effect_that_must_happen_once_is_not_tried_again() -> None:
    workflow = compiled({"id": "charge", "type": "pay"}, {"id": "b", "needs": ["charge"]})
    run = begun(workflow, claim(stored("charge", "RUNNING")))
    assert (run.status, run.ended_as, run.started) == ("FAILED", "outcome_unknown", [])


def test_attempts_under_way_have_lost_their_worker() -> None:
    workflow = compiled({"id": "a"}, {"id": "map", "for_each": ["x"]})
    rows = [stored("a", "RUNNING"), stored("map", "RUNNING", items=1, attempt=0), stored("map[0]", "RUNNING")]
    snapshot = restore(workflow, claim(*rows))
    assert snapshot.reported == ["a", "map[0]"]
    assert snapshot.steps["a"].outcome == snapshot.maps["map"].active[0].outcome == Lost()
    run = begun(workflow, claim(*rows))
    assert [(start, run.snapshot.state(start).attempt) for start in run.started] == [("a", 2), ("map[0]", 2)]
    assert run.snapshot.steps["a"].failures == 0, "what was lost did not fail"


def test_what_items_have_used_counts_for_their_step() -> None:
    workflow = compiled({"id": "map", "for_each": ["x", "y"]})
    rows = [
        stored("map", "RUNNING", items=2, attempt=0),
        stored("map[0]", output_text="1", tokens_used=5, cost=0.5),
    ]
    assert restore(workflow, claim(*rows)).steps["map"].usage == Usage(5, 0.5)


def test_the_budget_of_the_definition_holds_but_for_what_the_run_has_of_its_own() -> None:
    workflow = compiled({"id": "a"}, budget={"max_steps": 5, "max_cost": 2.0})
    control = encode({"budget": {"max_steps": 9}})
    budget = restore(workflow, claim(status="PENDING", control_text=control)).control.budget
    assert (budget.max_steps, budget.max_cost) == (9, 2.0)


def test_the_verdict_of_a_limit_is_a_stop() -> None:
    workflow = compiled({"id": "a"}, queue_ttl="5s")
    for verdict, reason, status, code in (
        ("queue_expired", StopReason.QUEUE_EXPIRED, "FAILED", "queue_expired"),
        ("concurrency_skipped", StopReason.CANCELLED, "CANCELLED", "concurrency_skipped"),
        ("concurrency_cancelled", StopReason.CANCELLED, "CANCELLED", "concurrency_cancelled"),
    ):
        run = begun(workflow, claim(status="PENDING", may_run=False, verdict=verdict))
        assert run.stop is not None
        assert (run.stop.reason, run.status, run.ended_as) == (reason, status, code)
        assert run.started == []
