"""The shape of a workflow: edges, cycles, order. Every function is linear in steps and edges."""

from collections.abc import Iterator, Mapping, Sequence
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


def cycles(parents: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Groups of ids that lie on common cycles, each in the mapping's order; needs of oneself do not count."""
    finished: dict[str, int] = {}
    for root in parents:
        for name in _finishing(parents, root, finished):
            finished[name] = len(finished)
    children = _children(parents)
    grouped: dict[str, int] = {}
    groups: list[list[str]] = []
    for root in sorted(parents, key=finished.__getitem__, reverse=True):
        groups.append(list(_finishing(children, root, grouped)))
        grouped.update(dict.fromkeys(groups[-1], len(groups)))
    position = {name: index for index, name in enumerate(parents)}
    return sorted(
        (sorted(group, key=position.__getitem__) for group in groups if len(group) > 1),
        key=lambda group: position[group[0]],
    )


def _finishing(edges: Mapping[str, Sequence[str]], root: str, done: Mapping[str, int]) -> Iterator[str]:
    """Ids reachable from a root and not done yet, each after all those behind it (depth first, without recursion)."""
    if root in done:
        return
    entered = {root}
    path = [(root, iter(edges[root]))]
    while path:
        name, rest = path[-1]
        following = next((other for other in rest if other not in done and other not in entered), None)
        if following is None:
            path.pop()
            yield name
        else:
            entered.add(following)
            path.append((following, iter(edges[following])))


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
