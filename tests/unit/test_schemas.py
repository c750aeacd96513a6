"""JSON Schemas that users write."""

from typing import Any

import pytest

from app.domain.errors import MAX_PROBLEMS
from app.domain.schemas import UnsupportedSchema, compile_schema, schema_problems

DOUBLING = {
    "$ref": "#/$defs/x40",
    "$defs": {
        "x0": {"type": "integer"},
        **{f"x{n}": {"allOf": [{"$ref": f"#/$defs/x{n - 1}"}] * 2} for n in range(1, 41)},
    },
}
CHAIN = {
    "$ref": "#/$defs/x5000",
    "$defs": {"x0": {}, **{f"x{n}": {"$ref": f"#/$defs/x{n - 1}"} for n in range(1, 5_001)}},
}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "https://example.com/schema"}, "no reference inside the schema"),
        ({"$ref": "file:///etc/passwd"}, "no reference inside the schema"),
        ({"$ref": "other.json#/a"}, "no reference inside the schema"),
        ({"$ref": "#/$defs/nope"}, "refers to nothing"),
        ({"$ref": "#"}, "refers to itself"),
        ({"properties": {"kids": {"items": {"$ref": "#/properties/kids"}}}}, "refers to itself"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "refers to itself"),
        ({"$dynamicRef": "#node"}, "no reference inside the schema"),
        (DOUBLING, "10000 nodes"),
        ({"properties": {"$defs": {"allOf": [{"$ref": "#/$defs/x40"}]}}, "$defs": DOUBLING["$defs"]}, "10000 nodes"),
        (CHAIN, "nested too deeply"),
        ({"pattern": "(?=a)b"}, "no look-around"),
        ({"pattern": r"(a)\1"}, "no look-around and no back-references"),
        ({"type": "strin"}, ""),
        ({"minLength": -1}, "less than the minimum"),
        ({"$schema": "https://example.com/own"}, "meta-schema"),
    ],
)
def test_a_schema_that_could_harm_or_means_nothing_is_refused(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedSchema) as caught:
        compile_schema(schema)
    assert words in str(caught.value)


def test_the_refusal_says_where() -> None:
    with pytest.raises(UnsupportedSchema) as caught:
        compile_schema({"properties": {"a/b": {"type": 5}}})
    assert caught.value.pointer == "/properties/a~1b/type"


def test_references_inside_the_schema_may_be_shared() -> None:
    schema = {
        "$defs": {
            "lead": {"type": "object", "properties": {"name": {"$ref": "#/$defs/text"}}},
            "text": {"type": "string"},
        },
        "properties": {
            "a": {"$ref": "#/$defs/lead"},
            "b": {"items": {"$ref": "#/$defs/lead"}},
            "$ref": {"type": "string"},
        },
    }
    validator = compile_schema(schema)
    assert schema_problems(validator, {"a": {"name": "x"}, "b": [{"name": "y"}], "$ref": "z"}, "code") == []
    assert [problem.pointer for problem in schema_problems(validator, {"b": [{}, {"name": 5}]}, "code")] == [
        "/b/1/name"
    ]


def test_many_models_that_use_each_other_fit() -> None:
    fields = {f"f{n}": {"type": "string"} for n in range(20)}
    models = {"m0": {"properties": fields}}
    models |= {f"m{n}": {"properties": {**fields, "next": {"$ref": f"#/$defs/m{n - 1}"}}} for n in range(1, 60)}
    compile_schema({"$ref": "#/$defs/m59", "$defs": models})


def test_hostile_patterns_are_matched_in_linear_time() -> None:
    validator = compile_schema({"pattern": "^(a+)+$"})
    assert len(schema_problems(validator, "a" * 50_000 + "!", "code")) == 1


def test_mismatches_say_where_and_echo_no_value() -> None:
    validator = compile_schema({"properties": {"a": {"type": "integer"}, "b": {"enum": ["x"]}}})
    found = schema_problems(validator, {"a": "hunter2", "b": "hunter2"}, "code")
    assert [(problem.code, problem.pointer) for problem in found] == [("code", "/a"), ("code", "/b")]
    assert not any("hunter2" in problem.detail for problem in found)


def test_of_several_forms_each_says_what_keeps_the_value_from_it() -> None:
    validator = compile_schema({"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "string"}]})
    (found,) = schema_problems(validator, 5, "code")
    assert found.detail == 'the value is not of type "string", and the value is not of type "object"'


def test_no_more_mismatches_are_looked_for_than_are_told() -> None:
    validator = compile_schema({"items": {"type": "integer"}})
    assert len(schema_problems(validator, ["x"] * 10_000, "code")) == MAX_PROBLEMS


@pytest.mark.parametrize(("schema", "fits"), [(True, True), (False, False), ({}, True)])
def test_true_false_and_nothing_are_schemas(schema: dict[str, Any] | bool, fits: bool) -> None:
    assert (schema_problems(compile_schema(schema), 5, "code") == []) is fits
