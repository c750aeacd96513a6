"""Where two runs part, and patches that lead from one to the other or say that they are cut."""

from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.jsontext import encode
from app.domain.rundiff import (
    COMPARED_BYTES,
    COMPARED_VALUES,
    SHOWN_BYTES_IN_ALL,
    SHOWN_OPERATIONS,
    Patch,
    PatchMaker,
    StepDiff,
    StepPair,
    StepSide,
    first_divergence,
)

DONE = StepSide("COMPLETED")
FAILED = StepSide("FAILED", error="HTTP 503", error_code="http_error")


def patch(left: Any, right: Any) -> Patch | None:
    return PatchMaker().between(encode(left), encode(right))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([1.0, 0.5])
    | st.text(alphabet="ab/~0", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(alphabet="ab/~0", max_size=2), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES, VALUES)
def test_a_whole_patch_turns_left_into_right(left: Any, right: Any) -> None:
    found = patch(left, right)
    applied = left if found is None else jsonpatch.apply_patch(left, list(found.operations))
    assert found is None or found.whole
    assert encode(_sorted(applied)) == encode(_sorted(right)), "also where Python's 1, 1.0 and True are equal"


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("left", "right", "operations"),
    [
        (1, 2, [{"op": "replace", "path": "", "value": 2}]),
        (None, {"a": 1}, [{"op": "replace", "path": "", "value": {"a": 1}}]),
        ({"a": 1, "b": [1, 2]}, {"a": 1, "b": [2]}, [{"op": "remove", "path": "/b/0"}]),
        ({"a": 1}, {"a": True}, [{"op": "replace", "path": "/a", "value": True}]),
    ],
)
def test_a_patch_says_what_changed(left: Any, right: Any, operations: list[dict[str, Any]]) -> None:
    assert patch(left, right) == Patch(operations)


def test_the_order_of_members_is_no_difference() -> None:
    assert PatchMaker().between('{"a":1,"b":2}', '{"b":2,"a":1}') is None


def test_no_text_is_null() -> None:
    assert PatchMaker().between(None, "null") is None
    assert PatchMaker().between(None, "1") == Patch([{"op": "replace", "path": "", "value": 1}])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("x" * (COMPARED_BYTES + 1), "y"),
        ([0] * (COMPARED_VALUES + 1), [1]),
        ({"a": {str(number): number for number in range(COMPARED_VALUES)}}, {}),
    ],
)
def test_what_is_too_large_to_compare_is_said_to_differ(left: Any, right: Any) -> None:
    assert patch(left, right) == Patch((), whole=False)


def test_a_long_patch_is_cut_and_says_so() -> None:
    found = patch({str(n): 0 for n in range(1_000)}, {str(n): 1 for n in range(1_000)})
    assert found is not None
    assert (len(found.operations), found.whole) == (SHOWN_OPERATIONS, False)
    wide = patch({"a": 0, "b": 0}, {"a": "x" * 20_000, "b": "x" * 20_000})
    assert wide is not None
    assert (len(wide.operations), wide.whole) == (1, False)


def test_all_patches_of_an_answer_share_a_budget() -> None:
    maker = PatchMaker()
    made = [maker.between('"x"', encode("y" * 30_000)) for _ in range(100)]
    shown = sum(len(encode(operation)) for found in made if found for operation in found.operations)
    assert all(found is not None for found in made)
    assert 0 < shown <= SHOWN_BYTES_IN_ALL
    assert any(found is not None and not found.whole for found in made)


def test_very_deep_values_do_not_break_it() -> None:
    deep = "[" * 900 + "1" + "]" * 900
    found = PatchMaker().between(deep, deep.replace("1", "2"))
    assert found is not None


def test_the_first_divergence_is_the_first_step_that_differs() -> None:
    pairs = [
        StepPair("a", DONE, DONE),
        StepPair("b", None, None),
        StepPair("c", DONE, FAILED),
        StepPair("d", DONE, None),
    ]
    found = first_divergence(pairs)
    assert found is not None
    assert (found.step_id, found.what) == ("c", "status")
    assert found.detail == "Step 'c' is FAILED instead of COMPLETED: HTTP 503"


@pytest.mark.parametrize(
    ("pair", "what"),
    [
        (StepPair("a", DONE, DONE), None),
        (StepPair("a", None, DONE), "reached"),
        (StepPair("a", DONE, None), "reached"),
        (StepPair("a", DONE, FAILED, input_differs=True), "input"),
        (StepPair("a", FAILED, StepSide("FAILED", error="no", error_code="step_timeout")), "error"),
        (StepPair("a", FAILED, StepSide("FAILED", error="503 again", error_code="http_error")), None),
        (
            StepPair("a", StepSide("SKIPPED", reason="not_taken"), StepSide("SKIPPED", reason="execution_failed")),
            "reason",
        ),
        (StepPair("a", StepSide("COMPLETED", frozenset({"hot"})), StepSide("COMPLETED", frozenset({"cold"}))), "ports"),
        (StepPair("a", DONE, DONE, output_differs=True), "output"),
        (StepPair("a", StepSide("COMPLETED", reason="cached"), DONE, output_differs=True), "output"),
    ],
)
def test_what_differs_is_named_causes_first(pair: StepPair, what: str | None) -> None:
    found = first_divergence([pair])
    assert (found and found.what) == what


def test_deltas_are_right_minus_left_and_null_where_unknown() -> None:
    left = StepSide("COMPLETED", duration_ms=100.0, tokens=10, cost=0.5)
    right = StepSide("COMPLETED", duration_ms=250.5, tokens=4, cost=0.75)
    both = StepDiff(StepPair("a", left, right))
    assert (both.duration_delta_ms, both.tokens_delta, both.cost_delta) == (150.5, -6, 0.25)
    one = StepDiff(StepPair("a", left, None))
    assert (one.duration_delta_ms, one.tokens_delta, one.cost_delta) == (None, -10, -0.5)


@pytest.mark.parametrize(
    ("left", "right", "operations"),
    [
        ({"body": 1, "took": 5}, {"body": 1, "took": 9}, None),
        ({"body": 1, "took": 5}, {"body": 2, "took": 9}, [{"op": "replace", "path": "/body", "value": 2}]),
        ([{"body": 1, "took": 5}, None], [{"body": 1, "took": 9}, None], None),
        ([{"body": 1}], [{"body": 1}, {"took": 1}], [{"op": "add", "path": "/1", "value": {}}]),
        ("took", {"took": 1}, [{"op": "replace", "path": "", "value": {}}]),
    ],
)
def test_members_that_are_new_each_time_are_not_compared(left: Any, right: Any, operations: Any) -> None:
    found = PatchMaker().between(encode(left), encode(right), ("status", "body"))
    assert (found and list(found.operations)) == operations
