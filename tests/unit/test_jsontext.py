"""JSON as stored text."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.jsontext import NotJson, decode, encode

TEXT = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        math.nan, [math.inf], {"a": -math.inf, "b": None}, b"x", {1, 2}, {1: 2}, object(), "\ud800", {"\udfff": 1},
        2**64, -(2**63) - 1, 1j,
    ],
)  # fmt: skip
def test_what_json_does_not_have_is_refused(value: Any) -> None:
    with pytest.raises(NotJson):
        encode(value)


def test_rings_and_deep_nesting_are_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(NotJson):
        encode(ring)


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "1e400", "[1,]", '"\\ud800"', "{} {}", "\ufeff{}", b"\xff", "[" * 5_000]
)
def test_what_is_no_json_text_is_refused(text: str | bytes) -> None:
    with pytest.raises(NotJson):
        decode(text)


def test_nul_and_large_numbers_pass() -> None:
    assert decode('"a\\u0000b"') == "a\x00b"
    assert decode(str(2**64 - 1)) == 2**64 - 1
    assert decode(str(2**64)) == float(2**64)
