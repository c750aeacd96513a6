"""The shape of a workflow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.graph import ancestors, cycles, depth, topological_order


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Any graph, cycles and repeated needs included."""
    names = [f"s{number}" for number in range(draw(st.integers(1, 8)))]
    return {name: draw(st.lists(st.sampled_from(names), max_size=4)) for name in names}


def reachable(parents: dict[str, list[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        for parent in parents[todo.pop()]:
            if parent not in found:
                found.add(parent)
                todo.append(parent)
    return found


def test_parents_come_first_and_ties_keep_the_order_of_the_document() -> None:
    assert topological_order({"c": [], "b": ["a"], "a": [], "d": ["c", "b"]}) == ["c", "a", "b", "d"]


def test_what_is_on_or_behind_a_cycle_has_no_place_in_the_order() -> None:
    assert topological_order({"a": [], "b": ["c"], "c": ["b"], "d": ["c"]}) == ["a"]


@pytest.mark.parametrize(
    ("parents", "groups"),
    [
        ({"a": [], "b": ["a"]}, []),
        ({"a": ["b"], "b": ["a"]}, [["a", "b"]]),
        ({"a": ["a"]}, []),
        ({"a": ["c"], "b": ["a"], "c": ["b"], "d": ["c"]}, [["a", "b", "c"]]),
        ({"a": ["b"], "b": ["a"], "bridge": ["b"], "x": ["y", "bridge"], "y": ["x"]}, [["a", "b"], ["x", "y"]]),
        ({"a": ["b", "c"], "b": ["a"], "c": ["a"]}, [["a", "b", "c"]]),
    ],
)
def test_each_cycle_is_told_by_its_own_members(parents: dict[str, list[str]], groups: list[list[str]]) -> None:
    assert cycles(parents) == groups


@given(graphs())
def test_members_of_a_cycle_are_those_that_need_each_other(parents: dict[str, list[str]]) -> None:
    behind = {name: reachable(parents, name) for name in parents}
    groups = {frozenset([name, *(o for o in behind[name] if name in behind[o])]) for name in parents}
    assert sorted(map(sorted, cycles(parents))) == sorted(sorted(group) for group in groups if len(group) > 1)


@given(graphs())
def test_order_ancestors_and_depth_agree_with_the_graph(parents: dict[str, list[str]]) -> None:
    order = topological_order(parents)
    assert len(set(order)) == len(order)
    assert {
        name for name in parents if not any(o in reachable(parents, o) for o in {name, *reachable(parents, name)})
    } == set(order)
    assert all(order.index(parent) < order.index(name) for name in order for parent in parents[name])
    upstream = ancestors(parents, order)
    assert upstream == {name: reachable(parents, name) for name in order}
    levels = {name: max((len(path) for path in _paths(parents, name)), default=0) for name in order}
    assert depth(parents, order) == max(levels.values(), default=0)


def _paths(parents: dict[str, list[str]], name: str) -> list[list[str]]:
    behind = [path for parent in set(parents[name]) for path in _paths(parents, parent)]
    return [[*path, name] for path in behind] or [[name]]


def test_long_chains_and_rings_need_no_deep_stack() -> None:
    names = [f"s{number}" for number in range(20_000)]
    chain = {name: names[max(number - 1, 0) : number] for number, name in enumerate(names)}
    assert topological_order(chain) == names
    assert depth(chain, names) == len(names)
    assert cycles({**chain, names[0]: [names[-1]]}) == [names]
