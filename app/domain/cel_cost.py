"""What keeps an expression from taking the process down, judged before it runs.

CEL always ends, and its implementation counts the rounds of loops; but a few characters of it can still ask for
gigabytes: a `replace` by long text, text doubled in a loop. So the work is bounded by following the values through the
tree: how long each can get at most, given what the names hold now. A loop is bounded without unrolling it: every bound
grows at least in proportion to what goes in, so all elements of a list together cost no more than each of them empty,
plus one that is as large as the whole list.

`map` and `filter` cost the square of their rounds, and have a limit of their own: each round copies the list gathered
so far, and none of the copies is freed before the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from app.domain.cel_tree import Build, Call, Constant, Loop, Name, Node, Select, loop_depth, resolve
from app.domain.jsontext import JSON
from app.domain.regex_cost import STATES_PER_CHARACTER, match_work, states_of

MAX_WORK = 1 << 26
"""Bytes, roughly, that one evaluation may copy or look at."""
MAX_GATHERED = 3_000
"""Elements that one `map` or `filter` may go over."""

_NUMBER = 32
_ELEMENT = 8
_PIECE = 32
_COPY = 6
_PRECISION = 500

_INSTANT = frozenset({"_-_", "_*_", "_/_", "_%_", "-_", "!_", "_&&_", "_||_", "@not_strictly_false", "hasValue"})
_LOOKING = frozenset(
    {"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in", "size", "contains", "startsWith", "endsWith"}
    | {"indexOf", "lastIndexOf"}
)
_PICKING = frozenset({"_[_]", "_[?_]", "_?._"})


class TooMuch(Exception):
    """The evaluation could take more than a process can give."""


class Bound(NamedTuple):
    """At most: characters of JSON; elements; elements of the longest list that it is or holds; work to get there."""

    size: int
    items: int
    longest: int
    work: int = 0


_EMPTY = Bound(0, 0, 0)


def check_work(tree: Node, values: Mapping[str, JSON]) -> int:
    """What evaluating a tree takes at most; `values` are those of its free names. Raises TooMuch."""
    work = _Bounds(values, loop_depth(tree) > 1).of(tree, {}).work
    if work > MAX_WORK:
        raise TooMuch("it could take too much work or memory with values of this size")
    return work


@dataclass(frozen=True, slots=True)
class _Bounds:
    values: Mapping[str, JSON]
    nested: bool

    def of(self, node: Node, scope: Mapping[str, Bound]) -> Bound:
        if (known := resolve(node, self.values)) is not None:
            return self._measured(known[1])
        match node:
            case Constant():
                return Bound(node.size, 1, 1)
            case Name():
                return scope.get(node.name, Bound(_NUMBER, 1, 1))
            case Select():
                operand = self.of(node.operand, scope)
                return Bound(1 if node.test else operand.size, operand.size, operand.longest, operand.work + 1)
            case Build():
                parts = [self.of(item, scope) for item in node.items]
                count, longest = len(parts), max((part.longest for part in parts), default=0)
                size = sum(part.size for part in parts) + count
                return Bound(size, count, max(count, longest), sum(part.work for part in parts) + count)
            case Call():
                parts = [self.of(argument, scope) for argument in node.arguments]
                match node.function:
                    case "split":
                        return self._split(node, _called(node, parts))
                    case "matches":
                        return self._matched(node.arguments[1], *parts)
                    case _:
                        return _called(node, parts)
            case Loop():
                return self._looped(node, scope)

    def _looped(self, loop: Loop, scope: Mapping[str, Bound]) -> Bound:
        over, start = self.of(loop.over, scope), self.of(loop.start, scope)
        gathered_one_by_one = min(over.items, over.longest) if loop.start == Build(()) else 0
        if gathered_one_by_one > MAX_GATHERED:
            raise TooMuch(f"its `map` or `filter` could go over more than {MAX_GATHERED:,} elements")
        least = self._round(loop, scope, _EMPTY)
        most = self._round(loop, scope, Bound(over.size, over.size, over.longest))
        size, items, _, work = (each * over.items + whole - each for each, whole in zip(least, most, strict=True))
        longest = max(start.longest, items if most.longest else 0, most.longest)
        gathered = Bound(start.size + size, start.items + items, longest)
        result = self.of(loop.result, {**scope, loop.gathered: gathered})
        work += over.work + start.work + _COPY * gathered_one_by_one**2
        return result._replace(work=work + result.work)

    def _round(self, loop: Loop, scope: Mapping[str, Bound], element: Bound) -> Bound:
        """One round with such an element, and nothing gathered yet."""
        values = {name: value for name, value in self.values.items() if name not in loop.variables}
        inside = _Bounds(values, self.nested)
        scope = {**scope, loop.gathered: _EMPTY, **dict.fromkeys(loop.variables, element)}
        step = inside.of(loop.step, scope)
        return step._replace(work=step.work + inside.of(loop.condition, scope).work)

    def _measured(self, value: JSON) -> Bound:
        match value:
            case str():
                return Bound(len(value), 1, 1)
            case list() | dict():
                return Bound(len(orjson.dumps(value)), len(value), _longest(value) if self.nested else len(value))
            case _:
                return Bound(_NUMBER, 1, 1)

    def _matched(self, node: Node, text: Bound, pattern: Bound) -> Bound:
        match resolve(node, self.values), node:
            case ((_, str() as known), _) | (_, Constant(str() as known)):
                states = states_of(known)
            case _:
                states = STATES_PER_CHARACTER * pattern.size
        return Bound(_NUMBER, 1, 1, text.work + pattern.work + match_work(states, text.size))

    def _split(self, call: Call, bound: Bound) -> Bound:
        """With text and separator known, the pieces can be counted."""
        match resolve(call.arguments[0], self.values), call.arguments:
            case (_, str() as text), (_, Constant(str() as separator), *_) if separator:
                pieces = text.count(separator) + 1
                return bound._replace(items=pieces, longest=pieces)
            case _:
                return bound


def _longest(value: JSON) -> int:
    if isinstance(value, dict):
        return max(len(value), max(map(_longest, value.values()), default=0))
    if isinstance(value, list):
        return max(len(value), max(map(_longest, value), default=0))
    return 1


def _called(call: Call, parts: list[Bound]) -> Bound:
    size, items = sum(part.size for part in parts), sum(part.items for part in parts)
    before, longest = sum(part.work for part in parts), max((part.longest for part in parts), default=0)
    if call.function in _INSTANT:
        return Bound(_NUMBER, 1, 1, before + 1)
    if call.function in _LOOKING:
        return Bound(_NUMBER, 1, 1, before + size)
    if call.function in _PICKING:
        return Bound(parts[0].size, parts[0].size, parts[0].longest, before + parts[-1].size + 1)
    match call.function.rpartition(".")[2], parts:
        case "_?_:_", [_, yes, no]:
            return Bound(max(yes.size, no.size), max(yes.items, no.items), longest, before + 1)
        case "_+_", _:
            copied = size + (_ELEMENT * items if call.joins_lists else 0)
            return Bound(size + _NUMBER, items, max(items, longest), before + copied)
        case "replace", [text, _, new, *_]:
            return _text(text.size + (text.size + 1) * new.size, before)
        case "join", [pieces, *separator]:
            return _text(pieces.size + pieces.items * sum(part.size for part in separator), before)
        case "sum", [numbers]:
            return Bound(_NUMBER, 1, 1, before + _PIECE * numbers.items)
        case "split", [text, *_]:
            return Bound(2 * text.size + 2, text.size + 1, text.size + 1, before + _PIECE * (text.size + 1))
        case "format", [text, values]:
            return _text(_PRECISION * text.size + 2 * values.size, before)
        case "quote" | "encode" | "string" | "bytes", _:
            return _text(2 * size + _NUMBER, before)
        case _:
            return Bound(size + _NUMBER, size + _NUMBER, size + _NUMBER, before + size + 1)


def _text(size: int, work_before: int) -> Bound:
    return Bound(size, 1, 1, work_before + size)
