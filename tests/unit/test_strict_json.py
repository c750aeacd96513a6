"""Bodies are JSON of one meaning: what two readers could take differently is refused, and so is what is too deep."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.strict_json import MAX_DEPTH, read_json
from app.domain.errors import StepstreamError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)  # fmt: skip


def code_of(body: bytes) -> str:
    with pytest.raises(StepstreamError) as refused:
        read_json(body)
    return refused.value.error_code


@given(VALUES, st.booleans())
def test_what_is_json_is_read_as_it_is(value: object, escaped: bool) -> None:
    assert read_json(json.dumps(value, ensure_ascii=escaped).encode()) == value


@given(st.binary(max_size=200) | st.text('[]{}":,\\01eE.-x', max_size=60).map(str.encode))
def test_it_answers_for_any_bytes(body: bytes) -> None:
    try:
        value = read_json(body)
    except StepstreamError:
        return
    assert value == orjson.loads(body)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"":', b"}]")])
def test_the_deepest_is_32_levels(opening: bytes, closing: bytes) -> None:
    deepest = MAX_DEPTH // (opening.count(b"[") + opening.count(b"{"))
    assert read_json(opening * deepest + b"0" + closing * deepest)
    assert code_of(opening * (deepest + 1) + b"0" + closing * (deepest + 1)) == "json_too_deep"
    assert code_of(opening * 100_000) == "json_too_deep", "told before it is parsed"


def test_brackets_and_colons_inside_text_do_not_count() -> None:
    text = '[{:"\\' * 50
    assert read_json(json.dumps({"a": text, "b": {text: text}}).encode()) == {"a": text, "b": {text: text}}


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":{"b":1,"b":2}}',
        b'[{"a":1},{"a":2,"a":{}}]',
        b'{"":1,"":2}',
        b'{"\\"":1,"\\u0022":2}',
    ],
)
def test_a_key_stands_once_in_an_object(body: bytes) -> None:
    assert code_of(body) == "invalid_json"


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"9" * 5_000, b"1" + b"0" * 400, b"0." + b"9" * 10 + b"e309"])
def test_a_number_that_does_not_exist_is_told_from_text_that_is_no_json(number: bytes) -> None:
    for body in (number, b'{"a":[' + number + b"]}"):
        assert code_of(body) == "number_out_of_range"
