"""An upper bound for the work of an expression, computed before it runs.

CEL always ends, and its implementation counts the rounds of loops; but a few characters of it can still ask for
gigabytes: a `replace` by long text, text doubled in a loop. The bound follows the values through the tree: how long each
can get at most, given what the names hold now. A loop is bounded without unrolling it: every bound grows at least in
proportion to what goes in, so all elements of a list together cost no more than each of them empty, plus one that is
as large as the whole list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from app.domain.cel_tree import Build, Call, Constant, Loop, Name, Node, Select
from app.domain.jsontext import JSON

_NUMBER = 32
_ELEMENT = 8
_PIECE = 32
_PRECISION = 500

_INSTANT = frozenset({"_-_", "_*_", "_/_", "_%_", "-_", "!_", "_&&_", "_||_", "@not_strictly_false", "hasValue"})
_LOOKING = frozenset(
    {"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in", "size", "contains", "startsWith", "endsWith"}
    | {"indexOf", "lastIndexOf"}
)
_PICKING = frozenset({"_[_]", "_[?_]", "_?._"})


class Bound(NamedTuple):
    """At most so many characters of JSON, so many elements, and so much work (about a byte copied) to get there."""

    size: int
    items: int
    work: int = 0


class _Unknown:
    """A value that only evaluation finds out."""


_UNKNOWN = _Unknown()
_EMPTY = Bound(0, 0)


def work_bound(tree: Node, values: Mapping[str, JSON]) -> int:
    """The most work that evaluating a tree can be; `values` are those of its free names."""
    return _Bounds(values).of(tree, {}).work


@dataclass(frozen=True, slots=True)
class _Bounds:
    values: Mapping[str, JSON]

    def of(self, node: Node, scope: Mapping[str, Bound]) -> Bound:
        known = self._known(node, scope)
        if not isinstance(known, _Unknown):
            return _measured(known)
        match node:
            case Constant():
                return Bound(node.size, 1)
            case Name():
                return scope.get(node.name, Bound(_NUMBER, 1))
            case Select():
                operand = self.of(node.operand, scope)
                return Bound(1 if node.test else operand.size, operand.size, operand.work + 1)
            case Build():
                parts = [self.of(item, scope) for item in node.items]
                size = sum(part.size for part in parts) + len(parts)
                return Bound(size, len(parts), sum(part.work for part in parts) + len(parts))
            case Call():
                return _called(node, [self.of(argument, scope) for argument in node.arguments])
            case Loop():
                return self._looped(node, scope)

    def _looped(self, loop: Loop, scope: Mapping[str, Bound]) -> Bound:
        over, start = self.of(loop.over, scope), self.of(loop.start, scope)
        base = {**scope, loop.gathered: _EMPTY}
        least = self._round(loop, {**base, **dict.fromkeys(loop.variables, _EMPTY)})
        most = self._round(loop, {**base, **dict.fromkeys(loop.variables, Bound(over.size, over.size))})
        gathered = Bound(*(each * over.items + whole - each for each, whole in zip(least, most, strict=True)))
        result = self.of(
            loop.result,
            {**scope, loop.gathered: Bound(start.size + gathered.size, start.items + gathered.items)},
        )
        work = over.work + start.work + gathered.work + result.work
        return Bound(result.size, result.items, work)

    def _round(self, loop: Loop, scope: Mapping[str, Bound]) -> Bound:
        step = self.of(loop.step, scope)
        return step._replace(work=step.work + self.of(loop.condition, scope).work)

    def _known(self, node: Node, scope: Mapping[str, Bound]) -> "JSON | _Unknown":
        """The value of a name or of a path behind it, such as `input.leads[0].name`."""
        match node:
            case Name(name) if name not in scope and name in self.values:
                return self.values[name]
            case Select(operand, field, False):
                return _child(self._known(operand, scope), field)
            case Call("_[_]", (operand, Constant(str() | int() as key))):
                return _child(self._known(operand, scope), key)
            case _:
                return _UNKNOWN


def _child(value: "JSON | _Unknown", key: str | int) -> "JSON | _Unknown":
    if isinstance(value, dict) and isinstance(key, str):
        return value.get(key)
    if isinstance(value, list) and isinstance(key, int):
        return value[key] if 0 <= key < len(value) else None
    return _UNKNOWN if isinstance(value, _Unknown) else None


def _measured(value: JSON) -> Bound:
    match value:
        case str():
            return Bound(len(value), 1)
        case list() | dict():
            return Bound(len(orjson.dumps(value)), len(value))
        case _:
            return Bound(_NUMBER, 1)


def _called(call: Call, parts: list[Bound]) -> Bound:
    size, items = sum(part.size for part in parts), sum(part.items for part in parts)
    before = sum(part.work for part in parts)
    if call.function in _INSTANT:
        return Bound(_NUMBER, 1, before + 1)
    if call.function in _LOOKING:
        return Bound(_NUMBER, 1, before + size)
    if call.function in _PICKING:
        return Bound(parts[0].size, parts[0].size, before + parts[-1].size + 1)
    match call.function.rpartition(".")[2], parts:
        case "_?_:_", [_, yes, no]:
            return Bound(max(yes.size, no.size), max(yes.items, no.items), before + 1)
        case "_+_", _:
            return Bound(size + _NUMBER, items, before + size + (_ELEMENT * items if call.joins_lists else 0))
        case "matches", [text, pattern]:
            return Bound(_NUMBER, 1, before + text.size * (1 + pattern.size // 8) + _PIECE * pattern.size)
        case "replace", [text, _, new, *_]:
            longest = text.size + (text.size + 1) * new.size
            return Bound(longest, 1, before + longest)
        case "join", [pieces, *separator]:
            longest = pieces.size + pieces.items * sum(part.size for part in separator)
            return Bound(longest, 1, before + longest)
        case "split", [text, *_]:
            return Bound(2 * text.size + 2, text.size + 1, before + _PIECE * (text.size + 1))
        case "format", [text, values]:
            longest = _PRECISION * text.size + 2 * values.size
            return Bound(longest, 1, before + longest)
        case "quote" | "encode" | "string" | "bytes", _:
            return Bound(2 * size + _NUMBER, 1, before + 2 * size)
        case _:
            return Bound(size + _NUMBER, size + _NUMBER, before + size + 1)
