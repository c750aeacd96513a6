"""Every problem of a definition is reported at once, each with the code and the pointer that authors rely on."""

import pytest

from app.domain.validation import check_definition
from app.settings import Settings
from app.steps.registry import default_registry

CATALOG = default_registry(Settings(_env_file=None))


def step(step_id="a", kind="log", needs=(), **more):
    config = {"message": "x"} if kind == "log" else {}
    return {"id": step_id, "type": kind, "needs": list(needs), "with": config} | more


def found(document):
    return {(problem.code, problem.pointer) for problem in check_definition(document, CATALOG).problems}


def workflow(*steps, **more):
    return {"name": "Test", "steps": list(steps)} | more


@pytest.mark.parametrize(
    ("document", "code", "pointer"),
    [
        ("text", "validation_error", ""),
        ({"steps": [step()]}, "missing_field", "/name"),
        (workflow(), "graph_empty", "/steps"),
        (workflow(step(), colour="red"), "unknown_field", "/colour"),
        (workflow(step("Upper")), "invalid_step_id", "/steps/0/id"),
        (workflow(step(), step()), "duplicate_step_id", "/steps/1/id"),
        (workflow(step(kind="nothing")), "unknown_step_type", "/steps/0/type"),
        (workflow(step(needs=["b"])), "unknown_step", "/steps/0/needs/0"),
        (workflow(step(needs=["a"])), "graph_self_loop", "/steps/0/needs/0"),
        (workflow(step(), step("b", needs=["a", "a"])), "duplicate_edge", "/steps/1/needs/1"),
        (workflow(step(), step("b", needs=["a.hot"])), "unknown_port", "/steps/1/needs/0"),
        (workflow(step(run_if="any_failed")), "run_if_without_needs", "/steps/0/run_if"),
        (workflow(step(**{"with": {"nope": 1}})), "invalid_config", "/steps/0/with"),
        (workflow(step(**{"with": {"message": "${{ nope }}"}})), "unknown_name", "/steps/0/with/message"),
        (workflow(step(**{"with": {"message": "${{ 1 + }}"}})), "invalid_expression", "/steps/0/with/message"),
        (workflow(step(**{"with": {"message": "${{ input"}})), "invalid_expression", "/steps/0/with/message"),
        (
            workflow(step(), step("b", **{"with": {"message": "${{ steps.a.output }}"}})),
            "reference_not_upstream",
            "/steps/1/with/message",
        ),
        (workflow(step(**{"if": "steps.zzz.output"})), "unknown_step", "/steps/0/if"),
        (workflow(step(), output="${{ steps.zzz.output }}"), "unknown_step", "/output"),
        (workflow(step(), input={"$ref": "http://example.com/x"}), "unsupported_schema", "/input"),
        (workflow(step(), input={"type": "strin"}), "unsupported_schema", "/input/type"),
        (workflow(step(retry={"max_attempts": 0})), "invalid_value", "/steps/0/retry/max_attempts"),
        (workflow(step(timeout="soon")), "invalid_value", "/steps/0/timeout"),
    ],
)
def test_a_problem_has_its_code_and_pointer(document, code, pointer):
    assert (code, pointer) in found(document)
    assert check_definition(document, CATALOG).workflow is None


def test_a_cycle_is_found_and_what_is_behind_it_is_not_blamed():
    document = workflow(step("a", needs=["c"]), step("b", needs=["a"]), step("c", needs=["b"]), step("d", needs=["c"]))
    pointers = {pointer for code, pointer in found(document) if code == "graph_cycle"}
    assert {pointer.split("/")[2] for pointer in pointers} == {"0", "1", "2"}


def test_problems_of_all_kinds_are_told_together():
    document = workflow(
        step("a", "nothing"),
        step("b", needs=["zzz"], **{"with": {"message": "${{ foo }}"}}),
        colour="red",
        output="${{ 1 + }}",
    )
    codes = {code for code, _ in found(document)}
    assert codes >= {"unknown_step_type", "unknown_step", "unknown_name", "unknown_field", "invalid_expression"}


def test_a_right_definition_is_ready_to_run_in_document_order():
    document = workflow(
        step("a"),
        step("route", "switch", ["a"], **{"with": {"cases": {"hot": "${{ steps.a.output.level == 'info' }}"}}}),
        step("b", needs=["route.hot"]),
        step("c"),
    )
    checked = check_definition(document, CATALOG)
    assert checked.problems == []
    assert checked.workflow is not None
    assert checked.workflow.order == ["a", "route", "b", "c"]
    assert [compiled.number for compiled in checked.workflow.steps] == [1, 2, 3, 4]
