"""The shape of a workflow: edges, cycles, order. Every function is linear in steps and edges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush


@dataclass(frozen=True, slots=True)
class Edge:
    """From a parent, by one of its ports or (None) plainly."""

    parent: str
    port: str | None


def topological_order(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """Ids so that parents come first, otherwise in the mapping's own order; those on or behind a cycle are left out."""
    names = list(parents)
    position = {name: index for index, name in enumerate(names)}
    missing = {name: len(set(needs)) for name, needs in parents.items()}
    children = _children(parents)
    ready = [position[name] for name, count in missing.items() if count == 0]
    order: list[str] = []
    while ready:
        name = names[heappop(ready)]
        order.append(name)
        for child in children[name]:
            missing[child] -= 1
            if missing[child] == 0:
                heappush(ready, position[child])
    return order


def _children(parents: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    children: dict[str, list[str]] = {name: [] for name in parents}
    for name, needs in parents.items():
        for parent in dict.fromkeys(needs):
            children[parent].append(name)
    return children


def cycle_members(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """Ids that lie on some cycle, in the mapping's order."""
    stuck = set(parents) - set(topological_order(parents))
    within = {name: [parent for parent in parents[name] if parent in stuck] for name in parents if name in stuck}
    behind = set(topological_order(_children(within)))
    return [name for name in within if name not in behind]


def ancestors(parents: Mapping[str, Sequence[str]], order: Sequence[str]) -> dict[str, frozenset[str]]:
    """For each id all ids upstream of it; `order` is a topological order."""
    result: dict[str, frozenset[str]] = {}
    for node in order:
        upstream: set[str] = set()
        for parent in parents[node]:
            upstream.add(parent)
            upstream |= result[parent]
        result[node] = frozenset(upstream)
    return result


def depth(parents: Mapping[str, Sequence[str]], order: Sequence[str]) -> int:
    """Steps on the longest path."""
    level: dict[str, int] = {}
    for node in order:
        level[node] = 1 + max((level[parent] for parent in parents[node]), default=0)
    return max(level.values(), default=0)
