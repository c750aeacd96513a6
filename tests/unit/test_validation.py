"""Every problem of a definition at once, each with its code and pointer."""

from typing import Any

import pytest

from app.domain.definition import RESERVED_WORDS
from app.domain.errors import Problem
from app.domain.validation import check_definition
from tests.unit.runs import Types, compiled, spec

SENDING = spec(
    "send",
    {
        "type": "object",
        "properties": {
            "to": {"type": "string"},
            "count": {"type": "integer"},
            "parts": {"type": "array", "maxItems": 2},
        },
        "required": ["to"],
        "additionalProperties": False,
    },
)


def problems(document: object) -> list[Problem]:
    checked = check_definition(document, Types(SENDING))
    assert (checked.workflow is None) == bool(checked.problems)
    return checked.problems


def found(document: object) -> list[tuple[str, str]]:
    return [(problem.code, problem.pointer) for problem in problems(document)]


def steps(*listed: dict[str, Any], **document: Any) -> dict[str, Any]:
    return {
        "name": "Test",
        **document,
        "steps": [{"id": f"s{n}", "type": "work", **step} for n, step in enumerate(listed)],
    }


def test_everything_wrong_is_told_at_once() -> None:
    document = {
        "name": "",
        "color": "red",
        "input": {"type": "strin"},
        "timeout": "0s",
        "risk_score": 7,
        "output": "${{ steps.nope.output }}",
        "steps": [
            {"id": "a", "type": "work", "needs": ["b"]},
            {"id": "b", "type": "work", "needs": ["a", "ghost", "b"]},
            {"id": "a", "type": "work"},
            {"id": "Bad", "type": "work"},
            {"id": "c", "type": "nope", "with": {"x": "${{ steps.d.output }}"}},
            {"id": "d", "type": "send", "with": {"count": "many"}, "if": "input.", "retry": {"max_attempts": 0}},
            {"id": "e", "type": "send", "with": {"count": "many"}, "if": "1 +"},
            {"type": "work"},
        ],
    }
    assert sorted(found(document)) == sorted(
        [
            ("invalid_value", "/name"),
            ("unknown_field", "/color"),
            ("unsupported_schema", "/input/type"),
            ("invalid_value", "/timeout"),
            ("invalid_value", "/risk_score"),
            ("unknown_step", "/output"),
            ("graph_cycle", "/steps/0/needs/0"),
            ("graph_cycle", "/steps/1/needs/0"),
            ("unknown_step", "/steps/1/needs/1"),
            ("graph_self_loop", "/steps/1/needs/2"),
            ("duplicate_step_id", "/steps/2/id"),
            ("invalid_step_id", "/steps/3/id"),
            ("unknown_step_type", "/steps/4/type"),
            ("reference_not_upstream", "/steps/4/with/x"),
            ("invalid_value", "/steps/5/retry/max_attempts"),
            ("invalid_config", "/steps/6/with/count"),
            ("invalid_config", "/steps/6/with"),
            ("invalid_expression", "/steps/6/if"),
            ("missing_field", "/steps/7/id"),
        ]
    )


def test_a_step_undoes_only_what_came_before_it():
    first, undo = {"id": "a", "type": "work"}, {"id": "b", "type": "work", "needs": ["a"], "undoes": ["a"]}
    assert found({"name": "T", "steps": [first, undo]}) == []
    for name in ("b", "ghost"):
        assert found({"name": "T", "steps": [first, undo | {"undoes": [name]}]}) == [
            ("unknown_step", "/steps/1/undoes/0")
        ]


@pytest.mark.parametrize("document", [None, [], "x", 3, True])
def test_a_workflow_is_an_object(document: object) -> None:
    assert found(document) == [("validation_error", "")]


@pytest.mark.parametrize("value", [float("nan"), {1: 2}, b"x", {1, 2}, 2**70, "\ud800"])
def test_what_is_not_json_is_no_workflow(value: object) -> None:
    assert found(steps({"with": {"x": value}})) == [("validation_error", "")]


def test_hostile_nesting_is_refused_not_raised() -> None:
    value: Any = 1
    for _ in range(5_000):
        value = [value]
    assert found(steps({"with": {"x": value}})) == [("validation_error", "")]


@pytest.mark.parametrize(
    ("count", "expected"), [(0, [("graph_empty", "/steps")]), (501, [("graph_too_large", "/steps")])]
)
def test_a_workflow_has_one_to_500_steps(count: int, expected: list[tuple[str, str]]) -> None:
    assert found(steps(*[{}] * count)) == expected


def test_500_steps_fit() -> None:
    listed = [{"needs": [f"s{n - 3}"] if n > 2 else [], "with": {"x": f"${{{{ input == {n} }}}}"}} for n in range(500)]
    assert found(steps(*listed)) == []


def test_a_path_has_at_most_200_steps() -> None:
    chain = [{"needs": [f"s{n - 1}"] if n else []} for n in range(201)]
    assert found(steps(*chain)) == [("graph_too_large", "/steps")]
    assert found(steps(*chain[:200])) == []


def test_a_step_has_at_most_32_needs() -> None:
    roots: list[dict[str, Any]] = [{}] * 33
    assert found(steps(*roots, {"needs": [f"s{n}" for n in range(33)]})) == [("graph_too_large", "/steps/33/needs")]
    assert found(steps(*roots, {"needs": [f"s{n}" for n in range(32)]})) == []


def test_a_workflow_has_at_most_2000_edges() -> None:
    roots: list[dict[str, Any]] = [{}] * 32
    full = {"needs": [f"s{n}" for n in range(32)]}
    assert found(steps(*roots, *[full] * 63)) == [("graph_too_large", "/steps")]
    assert found(steps(*roots, *[full] * 62)) == []


def test_a_wrong_step_does_not_make_the_workflow_look_empty_or_others_wrong() -> None:
    document = steps({"timeout": -1}, {"needs": ["s0"], "with": {"x": "${{ steps.s0.output }}"}})
    assert ("graph_empty", "/steps") not in found(document)
    assert ("unknown_step", "/steps/1/needs/0") not in found(document)
    assert ("invalid_value", "/steps/0/timeout") in found(document)


def test_a_cycle_is_told_at_each_need_on_it_and_nowhere_else() -> None:
    document = steps({"needs": ["s2"]}, {"needs": ["s0"]}, {"needs": ["s3", "s1"]}, {}, {"needs": ["s2"]})
    assert found(document) == [
        ("graph_cycle", "/steps/0/needs/0"),
        ("graph_cycle", "/steps/1/needs/0"),
        ("graph_cycle", "/steps/2/needs/1"),
    ]
    assert problems(document)[1].detail == "s1 needs s0, and steps s0, s1, s2 form a cycle"


@pytest.mark.parametrize(
    ("need", "code"),
    [("s1", "graph_self_loop"), ("ghost", "unknown_step"), ("route.cold", "unknown_port"), ("s0.any", "unknown_port"),
     ("", "unknown_step"), (".x", "unknown_step")],
)  # fmt: skip
def test_a_need_names_another_step_or_a_port_of_one(need: str, code: str) -> None:
    switch = {"id": "route", "type": "switch", "with": {"cases": {"hot": True}, "default": "warm"}}
    assert found(steps({}, {"needs": [need]}, switch)) == [(code, "/steps/1/needs/0")]


def test_a_need_is_told_once_and_ports_are_needs_of_their_own() -> None:
    switch = {"id": "route", "type": "switch", "with": {"cases": {"hot": True}, "default": "warm"}}
    assert found(steps(switch, {"needs": ["route.hot", "route.warm", "route"]})) == []
    assert found(steps(switch, {"needs": ["route.hot", "route.hot"]})) == [("duplicate_edge", "/steps/1/needs/1")]
    (problem,) = problems(steps(switch, {"needs": ["route.cold"]}))
    assert problem.detail == "Step 'route' has no port 'cold' (its ports: hot, warm)"


@pytest.mark.parametrize(
    "step_id",
    [
        "",
        "A",
        "a b",
        "a-b",
        "1a",
        "_a",
        "a" * 64,
        "__proto__",
        "../x",
        "é",
        "\uff41",
        "a\u202e",
        "🚀",
        "a\n",
        *sorted(RESERVED_WORDS),
    ],
)
def test_step_ids_are_plain_words_that_expressions_can_use(step_id: str) -> None:
    assert found(steps({"id": step_id})) == [("invalid_step_id", "/steps/0/id")]


@pytest.mark.parametrize("step_id", ["a", "a_1", "a" * 63, "steps", "input", "size", "int"])
def test_other_words_of_expressions_may_be_ids(step_id: str) -> None:
    assert (
        found(steps({"id": step_id}, {"needs": [step_id], "with": {"x": f"${{{{ steps.{step_id}.output }}}}"}})) == []
    )


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"name": "a\u202eb"}, "invalid_character", "/name"),
        ({"name": "a\nb"}, "invalid_character", "/name"),
        ({"name": "a" * 201}, "invalid_value", "/name"),
        ({"description": "a\x00b"}, "invalid_character", "/description"),
        ({"deliverable_type": "a\x00"}, "invalid_character", "/deliverable_type"),
        ({"input": "object"}, "invalid_value", "/input"),
        ({"input": {"$ref": "https://example.com/x"}}, "unsupported_schema", "/input"),
        ({"input": {"properties": {"a": {"pattern": "(?=a)"}}}}, "unsupported_schema", "/input/properties/a/pattern"),
        ({"approval_above": 1.5}, "invalid_value", "/approval_above"),
        ({"risk_score": "high"}, "invalid_value", "/risk_score"),
        ({"risk_score": True}, "invalid_value", "/risk_score"),
        ({"risk_score": "${{ steps.s9.output }}"}, "unknown_step", "/risk_score"),
        ({"timeout": 0}, "invalid_value", "/timeout"),
        ({"timeout": "1000d"}, "invalid_value", "/timeout"),
        ({"output": {"a": ["${{ 1 + }}"]}}, "invalid_expression", "/output/a/0"),
        ({"steps": {}}, "invalid_value", "/steps"),
    ],
)
def test_fields_of_a_workflow_are_checked(change: dict[str, Any], code: str, pointer: str) -> None:
    assert (code, pointer) in found({**steps({}), **change})


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"if": 5}, "invalid_value", "/if"),
        ({"if": ["x"]}, "invalid_value", "/if"),
        ({"if": "${{ true }} && false"}, "invalid_expression", "/if"),
        ({"condition": "true"}, "unknown_field", "/condition"),
        ({"config": {}}, "unknown_field", "/config"),
        ({"with": []}, "invalid_value", "/with"),
        ({"run_if": "sometimes"}, "invalid_value", "/run_if"),
        ({"run_if": "any_failed"}, "run_if_without_needs", "/run_if"),
        ({"timeout": "0ms"}, "invalid_value", "/timeout"),
        ({"timeout": -1}, "invalid_value", "/timeout"),
        ({"timeout": 1e12}, "invalid_value", "/timeout"),
        ({"retry": {"max_attempts": 1_000_000_000}}, "invalid_value", "/retry/max_attempts"),
        ({"retry": {"initial_interval": 0}}, "invalid_value", "/retry/initial_interval"),
        ({"retry": {"factor": 0.5}}, "invalid_value", "/retry/factor"),
        ({"retry": {"jitter": "some"}}, "invalid_value", "/retry/jitter"),
        ({"retry": {"tries": 3}}, "unknown_field", "/retry/tries"),
        ({"name": "\x07"}, "invalid_character", "/name"),
        ({"needs": "s1"}, "invalid_value", "/needs"),
        ({"with": {"wrong": True}}, "invalid_config", "/with/wrong"),
        ({"type": "constructor"}, "unknown_step_type", "/type"),
    ],
)
def test_fields_of_a_step_are_checked(change: dict[str, Any], code: str, pointer: str) -> None:
    assert (code, f"/steps/0{pointer}") in found(steps(change))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"to": "x", "count": 1}, []),
        ({"to": 1}, [("invalid_config", "/steps/0/with/to")]),
        ({}, [("invalid_config", "/steps/0/with")]),
        ({"to": "x", "extra": 1}, [("invalid_config", "/steps/0/with")]),
        ({"to": "x", "count": "${{ input.n }}"}, []),
        ({"to": "x", "parts": ["${{ input }}", 1, 2]}, []),
        ({"to": "x", "count": "${{ 1 + }}"}, [("invalid_expression", "/steps/0/with/count")]),
    ],
)
def test_with_is_checked_by_its_type_and_expressions_are_left_to_the_run(
    config: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert found(steps({"type": "send", "with": config})) == expected


def test_problems_do_not_echo_values() -> None:
    secret = "hunter2hunter2"
    document = steps({"type": "send", "with": {"to": 5, "count": secret}, "timeout": secret}, input={"type": secret})
    assert not any(secret in problem.detail for problem in problems(document))


def test_a_checked_workflow_is_ready_to_run() -> None:
    workflow = compiled(
        {"id": "b", "needs": ["a"], "name": "Second"},
        {"id": "a", "timeout": "5s", "retry": {"max_attempts": 5}},
        {"id": "c", "type": "pay", "needs": ["a"], "with": {"function": "charge"}},
        input={"type": "object", "required": ["x"]},
    )
    assert [(step.id, step.number) for step in workflow.steps] == [("a", 1), ("b", 2), ("c", 3)]
    assert workflow.sinks == ("b", "c")
    assert [step.timeout for step in workflow.steps] == [5, 60, 60]
    assert [step.retry.max_attempts for step in workflow.steps] == [5, 3, 1]
    assert [step.function for step in workflow.steps] == ["work", "work", "charge"]
    assert workflow.by_id["b"].upstream == {"a"}
    assert workflow.graph_text == (
        '{"nodes":[{"id":"a","name":"a","type":"work","step_number":1},'
        '{"id":"b","name":"Second","type":"work","step_number":2},{"id":"c","name":"c","type":"pay","step_number":3}],'
        '"edges":[{"from":"a","port":null,"to":"b"},{"from":"a","port":null,"to":"c"}],"order":["a","b","c"]}'
    )
    assert [(problem.code, problem.pointer) for problem in workflow.input_problems({"y": 1})] == [
        ("input_schema_mismatch", "")
    ]
    assert workflow.input_problems({"x": 1}) == []
