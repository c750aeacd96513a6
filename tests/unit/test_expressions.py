"""Expressions: what authors rely on, and what they cannot break."""

import sys
from typing import Any

import pytest

from app.domain.errors import StepError
from app.domain.expressions import MAX_EXPRESSION, Environment, ExpressionError
from app.domain.jsontext import JSON

STEPS = ("qualify", "route", "later")
UPSTREAM = frozenset({"qualify", "route"})
LEADS: list[JSON] = [{"name": "Ann", "score": 0.9, "tags": ["a", "b"]}, {"name": "Bo", "score": 0.1, "tags": []}]
VALUES: dict[str, JSON] = {
    "input": {"n": 3, "f": 1.5, "text": "hé", "none": None, "yes": True, "list": [1, 2], "leads": LEADS, "a-b": 1},
    "execution.id": "exec_1",
    "steps.qualify.output": {"leads": LEADS, "risk": 0.25},
    "steps.qualify.status": "COMPLETED",
    "steps.qualify.error": None,
    "steps.route.output": None,
    "steps.route.status": "SKIPPED",
}


def evaluate(source: str, **values: Any) -> JSON:
    given = VALUES | values
    return Environment(STEPS).compile(source, UPSTREAM).evaluate(given.__getitem__)


def failure(source: str, **values: Any) -> tuple[str, str]:
    with pytest.raises(StepError) as caught:
        evaluate(source, **values)
    assert not caught.value.retryable
    return caught.value.error_code, caught.value.detail.partition("` failed: ")[2]


def refusal(source: str) -> tuple[str, str]:
    with pytest.raises(ExpressionError) as caught:
        Environment(STEPS).compile(source, UPSTREAM)
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("input.n", 3), ("input.n + 1", 4), ("input.f * 2.0", 3.0), ("input.n > 2", True), ("input.none", None),
        ("input.list", [1, 2]), ("input.list[1]", 2), ("input['a-b']", 1), ("{'a': [input.n, null]}", {"a": [3, None]}),
        ("input.leads.filter(l, l.score > 0.5).map(l, l.name)", ["Ann"]), ("size(input.leads)", 2),
        ("input.leads.exists(l, 'b' in l.tags)", True), ("has(input.nope)", False), ("input.?nope.orValue(7)", 7),
        ("input.yes ? 'y' : 'n'", "y"), ("string(input.n) + input.text", "3hé"), ("'%s!'.format([input.text])", "hé!"),
        ("steps.qualify.output.risk", 0.25), ("steps.qualify.status == 'COMPLETED'", True),
        ("steps.route.output", None),
        ("execution.id", "exec_1"), (".input.n", 3), ("steps . qualify . output . risk", 0.25), ("1u", 1),
        ("timestamp('2030-01-31T09:00:00Z')", "2030-01-31T09:00:00Z"), ("'a,b'.split(',').join('-')", "a-b"),
        ("sum(input.list)", 3), ("sum(input.leads.map(l, l.score)) > 0.99", True), ("sum([]) + 1", 1),
        ("sum([1, 0.5, 2u])", 3.5), ("sum([9223372036854775807, -1])", 2**63 - 2), ("sum([0.1] + [0.2, 0.3])", 0.6),
        ("[timestamp('2030-01-31T09:00:00.5Z')]", ["2030-01-31T09:00:00.500000Z"]), ("math.greatest(1, 3)", 3),
        ("input.map(steps, steps)", ["a-b", "f", "leads", "list", "n", "none", "text", "yes"]),
    ],
)  # fmt: skip
def test_values_keep_their_types(source: str, value: JSON) -> None:
    result = evaluate(source)
    if isinstance(result, list) and source.startswith("input.map"):
        result = sorted(result, key=str)
    assert (result, type(result)) == (value, type(value))


def test_a_value_that_is_handed_on_is_a_copy() -> None:
    for source in ("input", "input.leads", "steps.qualify.output.leads[0]", "[input.leads][0]"):
        result = evaluate(source)
        assert isinstance(result, dict | list)
        result.clear()
    assert VALUES["input"]["leads"] == LEADS  # type: ignore[index, call-overload]
    assert len(LEADS[0]) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("steps.nope.output", "unknown_step", "step 'nope', which does not exist"),
        ("steps.later.output.a", "reference_not_upstream", "step 'later', which is not upstream: add it to `needs`"),
        (".steps.later.status", "reference_not_upstream", "step 'later'"),
        ("input.list.map(x, steps.later.output)", "reference_not_upstream", "step 'later'"),
        ("steps.qualify", "unknown_name", "`.output`, `.status` and `.error`"),
        ("steps['qualify'].output", "unknown_name", "`steps.qualify.output`"),
        ("execution.secret", "unknown_name", "`.workflow_version`"),
        ("secrets.key", "unknown_name", "'secrets.key', which is no name or function"),
        ("input.n.sum()", "unknown_name", "'sum'"),
        ("__import__('os')", "unknown_name", "'__import__'"),
        ("input.n +", "invalid_expression", "ends too early"),
        ("1 +* 2", "invalid_expression", "at character 4: '*' is not expected here"),
        ("'abc", "invalid_expression", "a quote is missing"),
        ("'a' < 1", "invalid_expression", "`<` does not work on text and a whole number"),
        ("", "invalid_expression", "ends too early"),
        ("'a\x00b'", "invalid_expression", "NUL"),
        ("'\ud800'", "invalid_expression", "surrogate"),
        ("a" * (MAX_EXPRESSION + 1), "expression_too_long", "at most 2000 characters"),
        ("(" * 900 + "1" + ")" * 900, "expression_too_deep", "nested too deeply"),
        ("input" + ".a" * 500, "expression_too_deep", "nested too deeply"),
        ("[1].all(a, [1].all(b, [1].all(c, [1].all(d, [1].all(e, [1].all(f, [1].all(g, true)))))))",
         "expression_too_deep", "loops inside each other"),
    ],
)  # fmt: skip
def test_what_does_not_compile_says_why(source: str, code: str, words: str) -> None:
    found, detail = refusal(source)
    assert found == code
    assert words in detail


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("steps.route.output.port", "`steps.route.output` is null, so it has no field 'port'"),
        ("input.nope", "`input` has no field 'nope'"),
        ("input['nope'].x", "`input` has no field 'nope'"),
        ("input.leads[0].nope", "`input.leads[0]` has no field 'nope'"),
        ("input.leads[7]", "`input.leads` has 2 elements, so there is no [7]"),
        ("input.text.length", "`input.text` is text, so it has no field 'length'"),
        ("input.leads.map(l, l.nope)", "there is no field 'nope'"),
        ("has(input.nope) ? 1 : input.none.x", "only objects have fields"),
        ("input.list['a']", "a list is counted by numbers, not text"),
        ("input.list[-1]", "there is no element [-1] in a list of 2"),
        ("input.n + input.text", "`+` does not work on a whole number and text; make the number text with string()"),
        ("input.n + input.f", "make both the same with int() or double()"),
        ("size(input.n)", "`size` does not work on a whole number"),
        ("input.n.startsWith('a')", "`startsWith` does not work on a whole number and text"),
        ("input.none > 1", "`>` does not work on null and a whole number"),
        ("input.n ? 1 : 2", "must be true or false"),
        ("input.n && true", "must be true or false"),
        ("!input.n", "must be true or false"),
        ("1 / (input.n - 3)", "it divides by zero"),
        ("9223372036854775807 + input.n", "a whole number gets too large"),
        ("int(input.text)", "the text is not a whole number"),
        ("timestamp(input.text)", "not a time such as"),
        ("input.none.?a", "`.?` looks into objects, not into null"),
        ("sum(input.leads)", "`sum` takes a list of numbers, and element 0 is none"),
        ("sum([1, null])", "`sum` takes a list of numbers, and element 1 is none"),
        ("sum(input.text)", "`sum` does not work on text"),
        ("sum([9223372036854775807, 1])", "`sum` comes to more than a whole number can be"),
        ("sum([1e308, 1e308])", "`sum` comes to more than a number can be"),
    ],
)
def test_a_failure_is_a_sentence_about_the_authors_own_words(source: str, words: str) -> None:
    code, detail = failure(source)
    assert code == "expression_error"
    assert words in detail


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("double('NaN')", "nan"), ("[1.0 / 0.0]", "inf"), ("b'abc'", "bytes"), ("duration('1h')", "`string()`"),
        ("type(1)", "type"), ("{1: 2}", "keys that are not text"), ("optional.of(1)", "`.orValue(…)`"),
        ("input.?n", "`.orValue(…)`"), ("[optional.none()]", "`.orValue(…)`"),
    ],
)  # fmt: skip
def test_a_value_that_json_does_not_have_is_refused(source: str, words: str) -> None:
    code, detail = failure(source)
    assert code == "output_not_json"
    assert words in detail


def test_text_with_a_nul_passes_whole_but_is_not_cut() -> None:
    hostile = {"text": "a\x00b", "list": ["a\x00b"]}
    assert evaluate("input", input=hostile) == hostile
    assert evaluate("input.text", input=hostile) == "a\x00b"
    for source in ("input.text + 'x'", "size(input.list[0])", "input.list.map(x, x)"):
        assert failure(source, input=hostile) == (
            "expression_error",
            "text with a NUL character cannot be used in expressions",
        )
    assert evaluate("size(input)", input=r"\u0000") == 6, "a backslash and digits are no NUL"


def test_lone_surrogates_fail_the_expression_and_nothing_else() -> None:
    code, detail = failure("input + 'x'", input="\ud800")
    assert code == "expression_error"
    assert "not JSON" in detail


def test_whole_numbers_beyond_64_bits_are_decimal_numbers_and_pass_unchanged() -> None:
    assert evaluate("input", input=2**64 - 1) == 2**64 - 1
    assert evaluate("input + 1.0", input=2**63) == 2.0**63 + 1
    assert evaluate("input.map(x, x)", input=[2**63 - 1, -(2**63), 2**53 + 1]) == [2**63 - 1, -(2**63), 2**53 + 1]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is immortal there")
def test_nulls_do_not_wear_out_none() -> None:
    """The CEL library gives away a reference to None with each null that it converts: enough end the process."""
    expression = Environment(STEPS).compile("[input.none, {'a': null, 'b': input.list.map(x, null)}]", UPSTREAM)
    expression.evaluate(VALUES.__getitem__)
    before = sys.getrefcount(None)
    for _ in range(1_000):
        expression.evaluate(VALUES.__getitem__)
    assert abs(sys.getrefcount(None) - before) < 500


def test_strings_of_cel_do_not_make_references() -> None:
    assert evaluate("'steps.later.output' + \"steps.nope.output\" // steps.later.output") == (
        "steps.later.outputsteps.nope.output"
    )
