"""A few characters cannot take the process down: what could cost too much is refused before it runs."""

from typing import Any

import pytest

from app.domain.cel_cost import MAX_GATHERED, TooMuch, check_work
from app.domain.cel_tree import free_names, loop_depth, read_tree
from app.domain.errors import StepError
from app.domain.expressions import Environment, Expression

MEGABYTE = "a" * (1 << 20)
LEADS = [{"id": n, "first": f"Ann{n}", "last": "Lee", "tags": ["x", "y"], "score": n / 7} for n in range(2_000)]
INPUT: dict[str, Any] = {
    "text": MEGABYTE,
    "numbers": list(range(50_000)),
    "leads": LEADS,
    "ids": list(range(300)),
    "suffix": "!",
    "orders": [{"items": [{"n": n} for n in range(20)]} for _ in range(200)],
    "csv": "1,2\n" * 2_000,
    "groups": [list(range(9_000))],
}


def expression(source: str) -> Expression:
    return Environment([]).compile(source, frozenset())


def limit(source: str) -> str:
    with pytest.raises(StepError) as caught:
        expression(source).evaluate({"input": INPUT}.__getitem__)
    assert caught.value.error_code == "expression_limit"
    return caught.value.detail


HUNDRED = "a" * 100


@pytest.mark.parametrize(
    "source",
    [
        f"'{HUNDRED}'" + f".replace('a', '{HUNDRED}')" * 4,
        f"['{HUNDRED}']" + ".map(x, x + x)" * 26 + "[0].size()",
        "[input.text]" + ".map(x, x + x)" * 10 + "[0].size()",
        "[[1]]" + ".map(x, x + x)" * 26,
        "[[1]]" + ".map(x, [x, x])" * 28,
        "[[[1]]" + ".map(x, [x, x])" * 22 + ", 1].exists(x, x == input.suffix)",
        "input.text.replace('a', input.text).size()",
        "[1, 2, 3, 4, 5, 6, 7, 8, 9].map(a, [1, 2, 3, 4, 5, 6, 7, 8, 9].map(b, input.text).join('')).join('').size()",
        "input.leads.map(l, input.text).join('').size()",
        "input.leads.map(l, input.text.upperAscii()).size()",
        "input.leads.map(l, input.text.split('')).size()",
        "input.ids.exists(i, sum(input.numbers) > i)",
        "input.leads.map(l, input.numbers + [l]).size()",
        "input.leads.exists(l, input.text.contains('z'))",
        "input.leads.exists(l, input.text.matches('z(a|b)*'))",
        "input.numbers.exists(n, n in input.numbers.map(m, m))",
        "input.numbers.exists(n, 'aaaa'.matches('(a|b)*c{1,900}'))",
        "input.numbers.exists(n, 'aaaa'.matches('(x{1,900})(y{1,900})'))",
        "input.numbers.exists(n, 'a'.matches('\\\\pL'))",
        "input.ids.exists(n, 'a'.matches('(?i)[[:alpha:]]{1,99}'))",
        "input.ids.exists(n, 'a'.matches(string(n) + '{1,900}'))",
        "input.text.matches('((a|b)?){900}c')",
        "input.text.matches('a[ab]{900}c')",
        "input.leads" + ".map(l, l)" * 3,
        "[" + ", ".join(["input.leads.map(l, l)"] * 3) + "].size()",
        "input.text.split('').all(x, x in input.text.split(''))",
        "[" + ", ".join(["input.text"] * 30) + "]",
    ],
)
def test_bombs_are_refused(source: str) -> None:
    assert "too much work" in (detail := limit(source)) or "MiB" in detail or "elements" in detail


@pytest.mark.parametrize(
    "source",
    [
        "input.numbers.map(n, n)",
        "input.numbers.filter(n, n > 3)",
        "input.groups.map(g, g.map(n, n))",
        "input.text.split('').map(c, c)",
        "[input.numbers + [1]][0].map(n, n)",
    ],
)
def test_a_map_that_would_copy_long_lists_again_and_again_is_refused(source: str) -> None:
    assert f"more than {MAX_GATHERED:,} elements" in limit(source)


def test_loops_have_a_budget_of_rounds() -> None:
    assert "10,000 in all" in limit("input.numbers.all(n, n >= 0)")
    digits = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
    nested = "1 == 1"
    for name in "abcde":
        nested = f"{digits}.all({name}, {nested})"
    assert "10,000 in all" in limit(nested)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("size(input.leads.map(l, l.first + ' ' + l.last + input.suffix))", 2_000),
        ("size(input.leads.filter(l, l.score > 100.0).map(l, l.first).join(', '))", 11_390),
        ("size(input.leads.map(l, {'name': l.first, 'tags': l.tags.join('-'), 'text': string(l.id)}))", 2_000),
        ("size(input.leads.filter(l, l.id in input.ids))", 300),
        ("input.orders.map(o, o.items.filter(i, i.n > 10).size())[0]", 9),
        ("input.orders.map(o, o.items.map(i, i.n * 2))[0][19]", 38),
        ("size(input.leads.map(l, '%s <%s>'.format([l.first, l.last])))", 2_000),
        ("input.leads.all(l, l.first.matches('Ann[0-9]+'))", True),
        ("input.numbers.exists(n, n == 9000)", True),
        ("size(input.csv.split('\\n').filter(line, line != ''))", 2_000),
        ("size(input.text.replace('a', 'bb'))", 2 << 20),
        ("size(input.text + input.text)", 2 << 20),
        ("size(input.text.split(''))", 1 << 20),
        ("input.text.matches('^a+$')", True),
        ("input.leads.exists(l, l.first.matches('[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+[.][A-Za-z]{2,}'))", False),
        ("input.leads.all(l, !string(l.id).matches('^[0-9]{3}-[0-9]{3}-[0-9]{4}$'))", True),
        ("['b', 'Ann.*', 'c'].exists(p, input.leads[0].first.matches(p))", True),
    ],
)
def test_ordinary_work_on_large_values_is_done(source: str, value: object) -> None:
    assert expression(source).evaluate({"input": INPUT}.__getitem__) == value


def test_the_bound_grows_with_the_values_not_with_the_text() -> None:
    tree = expression("input.a.map(x, input.b.map(y, x + y).join(''))").tree
    check_work(tree, {"input": {"a": ["x"] * 50, "b": ["y"] * 50}})
    with pytest.raises(TooMuch):
        check_work(tree, {"input": {"a": ["x"] * 2_900, "b": ["y" * 40] * 2_900}})


def test_the_tree_tells_the_free_names_and_the_depth_of_loops() -> None:
    environment = Environment(["a"])
    compiled = environment.compile(
        "input.map(x, steps.a.output.filter(input, input > x)) + [execution.id]", frozenset("a")
    )
    tree = read_tree(compiled.program.serialize())
    assert list(free_names(tree)) == ["input", "steps.a.output", "execution.id"]
    assert compiled.names == ("input", "steps.a.output", "execution.id")
    assert loop_depth(tree) == 2
