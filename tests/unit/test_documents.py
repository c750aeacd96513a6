"""A body is one JSON value or it is refused, with the line."""

from typing import Any

import pytest
from starlette.types import Message

from app.api.documents import (
    DOCUMENT,
    JSON_EXAMPLE,
    YAML_EXAMPLE,
    definition_schemas,
    parse_yaml,
    read_document,
)
from app.api.request import StrictRequest
from app.api.strict_json import MAX_DEPTH
from app.domain.errors import StepstreamError
from app.domain.schemas import compile_schema, schema_problems


async def read(body: bytes, content_type: str | None) -> object:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    return await read_document(StrictRequest({"type": "http", "headers": headers}, receive))


def refusal(body: bytes) -> str:
    with pytest.raises(StepstreamError) as refused:
        parse_yaml(body)
    assert refused.value.error_code == "invalid_yaml"
    return refused.value.detail


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("", None),
        ("2020-01-01", "2020-01-01"),
        ("2020-01-01T10:00:00Z", "2020-01-01T10:00:00Z"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("12", 12),
        ("-7", -7),
        ("007", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("1e", "1e"),
        ("18446744073709551615", 18446744073709551615),
        ("18446744073709551616", 1.8446744073709552e19),
        ("-9223372036854775809", -9.223372036854775809e18),
        ("'12'", "12"),
        ('"true"', "true"),
        ('"a\\0b"', "a\0b"),
        ("30s", "30s"),
        ("${{ input }}", "${{ input }}"),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_a_yaml_scalar_means_what_the_core_schema_says(text: str, value: object) -> None:
    read_value = parse_yaml(f"value: {text}\n".encode())
    assert read_value == {"value": value}
    assert isinstance(read_value, dict)
    assert type(read_value["value"]) is type(value)


def test_yaml_reads_like_the_json_it_stands_for() -> None:
    body = b"""\
# a comment
name: Two steps
steps:
  - id: a
    with: {list: [1, two, {three: 3}], empty: [], nothing: {}}
  - id: b
    needs: [a]
    text: |
      first
      second
"""
    assert parse_yaml(body) == {
        "name": "Two steps",
        "steps": [
            {"id": "a", "with": {"list": [1, "two", {"three": 3}], "empty": [], "nothing": {}}},
            {"id": "b", "needs": ["a"], "text": "first\nsecond\n"},
        ],
    }


def test_yaml_keys_are_text_as_written() -> None:
    assert parse_yaml(b"{on: 1, 1: 2, true: 3, 2020-01-01: 4, '': 5}") == {
        "on": 1,
        "1": 2,
        "true": 3,
        "2020-01-01": 4,
        "": 5,
    }


def test_a_merge_key_merges_nothing() -> None:
    assert parse_yaml(b"<<: {a: 1}") == {"<<": {"a": 1}}


@pytest.mark.parametrize(
    ("body", "line", "word"),
    [
        (b"a: 1\nb: &x 2", 2, "anchor"),
        (b"a: &x [1]", 1, "anchor"),
        (b"&x a: 1", 1, "anchor"),
        (b"a: 1\nb: *x", 2, "alias"),
        (b"a: !!python/object/apply:os.system [ls]", 1, "tag"),
        (b"a: !!str 1", 1, "tag"),
        (b"a: ! 1", 1, "tag"),
        (b"!!str a: 1", 1, "tag"),
        (b"--- !!map\na: 1", 1, "tag"),
        (b"a: 1\nb: 2\na: 3", 3, "twice"),
        (b"a: {b: 1, 'b': 2}", 1, "twice"),
        (b"a: 1\n---\nb: 2", 2, "second document"),
        (b"? [1]\n: 2", 1, "key"),
        (b"? {a: 1}\n: 2", 1, "key"),
        (b"a: 1\nb: .inf", 2, "number"),
        (b"b: -.Inf", 1, "number"),
        (b"b: .nan", 1, "number"),
        (b"b: 1e400", 1, "number"),
        (b"b: " + b"9" * 5000, 1, "number"),
        (b"a: 1\n b: 2", 2, "mapping"),
        (b"a:\n\t- 1", 2, "token"),
        (b"a: 'b", 1, "end of stream"),
        (b"a: 1\nb: \x01", 2, "control character"),
        (b"a: 1\nb: \xff", 2, "UTF-8"),
        ("ä: 1\nb: \x00".encode(), 2, "control character"),
        (b'a: "\\ud800"', 1, ""),
    ],
)
def test_yaml_that_is_no_single_plain_value_is_refused_with_its_line(body: bytes, line: int, word: str) -> None:
    detail = refusal(body)
    assert f"line {line}:" in detail
    assert word in detail


@pytest.mark.parametrize("body", [b"", b"# only a comment\n"])
def test_an_empty_yaml_body_is_refused(body: bytes) -> None:
    assert "empty" in refusal(body)


def test_a_yaml_refusal_does_not_echo_values() -> None:
    for body in (b"password: 'hunter2", b"password: &hunter2 hunter2", b"password: hunter2: x"):
        assert "hunter2" not in refusal(body)


def test_yaml_nests_as_deep_as_json_and_no_deeper() -> None:
    assert parse_yaml(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None
    assert "deep" in refusal(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    assert "deep" in refusal(b"[" * 100_000)
    assert "deep" in refusal(b"- " * 100_000)


@pytest.mark.parametrize(
    "content_type",
    ["application/yaml", "text/yaml", "application/x-yaml", "Application/YAML; charset=UTF-8"],
)
async def test_yaml_is_read_by_its_media_types(content_type: str) -> None:
    assert await read(b"name: on", content_type) == {"name": "on"}


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"])
async def test_json_is_read_by_its_media_type(content_type: str) -> None:
    assert await read(b'{"name": "x", "n": 12345678901234567890123}', content_type) == {
        "name": "x",
        "n": 1.2345678901234568e22,
    }


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/json; charset=utf-16", "application/yaml; charset=latin-1", "application",
     "multipart/form-data; boundary=x", "application/octet-stream", "application/json, application/yaml"],
)  # fmt: skip
async def test_other_media_types_are_refused(content_type: str | None) -> None:
    with pytest.raises(StepstreamError) as refused:
        await read(b'{"name": "x"}', content_type)
    assert refused.value.error_code == "unsupported_media_type"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"", 1),
        (b"name: x", 1),
        (b'{"a": 1,\n"b": NaN}', 2),
        (b'{"a": 1} x', 1),
        (b"\xef\xbb\xbf{}", 1),
        (b'{"a": "\\ud800"}', 1),
        ('{"a": 1}'.encode("utf-16"), 1),
    ],
)
async def test_what_is_no_json_is_refused_with_its_line(body: bytes, line: int) -> None:
    with pytest.raises(StepstreamError) as refused:
        await read(body, "application/json")
    assert refused.value.error_code == "invalid_json"
    assert f"line {line} " in refused.value.detail


@pytest.mark.parametrize("example", [JSON_EXAMPLE, parse_yaml(YAML_EXAMPLE.encode())], ids=["json", "yaml"])
def test_the_documented_examples_fit_the_documented_schema(example: Any) -> None:
    schemas = definition_schemas()
    described = schemas[DOCUMENT] | {"components": {"schemas": schemas}}
    assert schema_problems(compile_schema(described), example, "x") == []
    assert schema_problems(compile_schema(described), example | {"stepz": 1}, "x") != []


def test_an_expression_that_yaml_takes_for_a_mapping_is_to_be_quoted() -> None:
    detail = refusal(b"name: x\noutput: ${{ input ? 1 : 2 }}\n")
    assert "line 2: " in detail
    assert "stands in quotes" in detail
    assert "quotes" not in refusal(b"name: a: b\n")
