"""Values with `${{ }}` in them."""

from typing import Any

import pytest

from app.domain.errors import Problem, StepError
from app.domain.expressions import Environment
from app.domain.jsontext import JSON
from app.domain.templates import Template, TemplateCompiler

VALUES: dict[str, JSON] = {"input": {"n": 3, "s": "x", "none": None, "yes": True, "list": [1, None], "d": {"a": 1.0}}}


def compiler() -> TemplateCompiler:
    return TemplateCompiler(Environment(["a", "b"]), frozenset({"a"}), [])


def render(value: Any) -> Any:
    made = compiler()
    template = made.template(value, "/with")
    assert made.problems == []
    return template.evaluate(VALUES.__getitem__)


def condition(value: str | bool) -> Template:
    made = compiler()
    template = made.condition(value, "/if")
    assert made.problems == []
    return template


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${{ input.n }}", 3), ("${{input.n}}", 3), ("${{ input.yes }}", True), ("${{ input.none }}", None),
        ("${{ input.list }}", [1, None]), ("${{ input.d }}", {"a": 1.0}), (" ${{ input.n }}", " 3"),
        ("n=${{ input.n }}, s=${{ input.s }}", "n=3, s=x"), ("${{ input.n }}${{ input.n }}", "33"),
        ("[${{ input.none }}]", "[]"), ("${{ input.list }}!", "[1,null]!"), ("${{ input.d }}!", '{"a":1.0}!'),
        ("${{ input.yes }}?", "true?"), ("no expression }} here", "no expression }} here"), ("$ {{ x }}", "$ {{ x }}"),
        ("${{ {'a': {'b': input.n}} }}", {"a": {"b": 3}}), ("${{ {'a': {'b': input.n}}.a.b }}", 3),
        ("${{ '}}' + input.s }}", "}}x"), ('${{ "a }} b" }}', "a }} b"), ("${{ '''}}'''}}", "}}"),
        (r"${{ 'it\'s }}' }}", "it's }}"), ("${{ '{' }}", "{"), ("${{ '${{' }}", "${{"),
        ("a}}${{ input.n }}}}", "a}}3}}"),
        ("${{\n  input.n\n}}", 3),
    ],
)  # fmt: skip
def test_whole_expressions_keep_their_type_and_others_become_text(text: str, value: JSON) -> None:
    result = render(text)
    assert (result, type(result)) == (value, type(value))


def test_expressions_are_found_at_any_depth_and_everything_else_stays() -> None:
    value = {"a": [1, "${{ input.n }}", {"b/c": "${{ input.s }}!"}], "n": None, "f": 1.5, "t": True, "${{ x }}": 1}
    assert render(value) == {"a": [1, 3, {"b/c": "x!"}], "n": None, "f": 1.5, "t": True, "${{ x }}": 1}


def test_every_evaluation_gives_a_value_of_its_own() -> None:
    """A step that changes its `with` would otherwise change the definition for all later runs."""
    template = compiler().template({"fixed": {"list": [1]}, "made": "${{ input.list }}"}, "")
    for _ in range(2):
        value = template.evaluate(VALUES.__getitem__)
        assert value == {"fixed": {"list": [1]}, "made": [1, None]}
        value["fixed"]["list"].append(2)
        value["made"].append(2)


def test_every_problem_is_told_with_its_pointer() -> None:
    made = compiler()
    made.template({"a": ["ok", "${{ nope }}"], "b/c~": "${{ steps.b.output }} ${{ 1 + }}", "d": "${{ input"}, "/with")
    assert [(problem.code, problem.pointer) for problem in made.problems] == [
        ("unknown_name", "/with/a/1"),
        ("reference_not_upstream", "/with/b~1c~0"),
        ("invalid_expression", "/with/d"),
    ]
    assert "is not closed by '}}'" in made.problems[2].detail


@pytest.mark.parametrize("text", ["${{ '" + "a" * 5_000 + "' }}", "${{ " + '"""' * 3_000, "${{" + " " * 9_000 + "1 }}"])
def test_an_expression_that_is_too_long_is_told_so(text: str) -> None:
    made = compiler()
    made.template(text, "")
    assert [problem.code for problem in made.problems] == ["expression_too_long"]


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("input.n > 2", True), ("${{ input.n > 5 }}", False), ("  ${{ input.yes }}\n", True), (True, True),
        (False, False),
        ("{'a': {'b': true}}.a.b", True), ("'}}' == '${{'", False),
    ],
)  # fmt: skip
def test_a_condition_may_leave_out_the_braces(text: str | bool, truth: bool) -> None:
    if text == "'}}' == '${{'":  # inside `${{ }}` it would be text around an expression
        text = f"${{{{ {text} }}}}"
    assert condition(text).truth(VALUES.__getitem__) is truth


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("input.n", "a number"),
        ("input.none", "null"),
        ("input.s", "text"),
        ("input.list", "a list"),
        ("input.d", "an object"),
    ],
)
def test_a_condition_that_is_not_true_or_false_says_what_it_is(text: str, kind: str) -> None:
    with pytest.raises(StepError, match=f"The condition `{text}` must be true or false, not {kind}") as caught:
        condition(text).truth(VALUES.__getitem__)
    assert (caught.value.error_code, caught.value.retryable) == ("expression_error", False)


def test_text_around_the_expression_of_a_condition_is_a_mistake() -> None:
    """It would be text, which is never true."""
    made = compiler()
    made.condition("${{ input.yes }} && ${{ input.yes }}", "/if")
    assert made.problems == [
        Problem("invalid_expression", "A condition is one expression: text around a `${{ }}` would make it text", "/if")
    ]


def test_the_expressions_of_one_value_share_one_limit() -> None:
    big = "a" * (1 << 20)
    template = compiler().template(["${{ input }}"] * 30, "")
    with pytest.raises(StepError, match="larger than 16 MiB") as caught:
        template.evaluate({"input": big}.__getitem__)
    assert caught.value.error_code == "expression_limit"
    assert len(compiler().template(["${{ input }}"] * 10, "").evaluate({"input": big}.__getitem__)) == 10
