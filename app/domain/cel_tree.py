"""The tree of a compiled expression, read from CEL's standard form (`cel.expr.CheckedExpr` in a protobuf `Any`).

Names of several parts such as `steps.qualify.output` are one `Name`; macros such as `map` are already loops.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from app.domain.jsontext import JSON


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal: text, a whole number, or (None) any other; `size` is its length."""

    value: str | int | None
    size: int


@dataclass(frozen=True, slots=True)
class Name:
    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """`operand.field`; with `test` it is `has(operand.field)`."""

    operand: "Node"
    field: str
    test: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A function or operator; the receiver of a method is the first argument. `joins_lists`: it may be list + list."""

    function: str
    arguments: "tuple[Node, ...]"
    joins_lists: bool


@dataclass(frozen=True, slots=True)
class Build:
    """A list literal, or a map literal with its keys and values in turn."""

    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Loop:
    """Runs `step` for each element of `over`, gathering in `gathered` what `result` then looks at."""

    variables: tuple[str, ...]
    over: "Node"
    gathered: str
    start: "Node"
    condition: "Node"
    step: "Node"
    result: "Node"


Node: TypeAlias = Constant | Name | Select | Call | Build | Loop

_Fields: TypeAlias = dict[int, list[bytes | int]]


def read_tree(serialized: bytes) -> Node:
    """The tree of a serialized checked expression."""
    checked = _fields(_blob(_fields(serialized), 2))
    joins_lists = {_number(entry, 1) for entry in map(_fields, _blobs(checked, 2)) if b"add_list" in _blob(entry, 2)}
    return _node(_blob(checked, 4), joins_lists)


def free_names(node: Node, bound: frozenset[str] = frozenset()) -> Iterator[str]:
    """The names a tree looks up outside itself, in order, with repetitions."""
    if isinstance(node, Name):
        if node.name not in bound:
            yield node.name
    elif isinstance(node, Loop):
        inside = bound | {node.gathered, *node.variables}
        for outer in (node.over, node.start):
            yield from free_names(outer, bound)
        for inner in (node.condition, node.step, node.result):
            yield from free_names(inner, inside)
    else:
        for child in children(node):
            yield from free_names(child, bound)


def children(node: Node) -> tuple[Node, ...]:
    """The nodes right below a node."""
    match node:
        case Select():
            return (node.operand,)
        case Call():
            return node.arguments
        case Build():
            return node.items
        case Loop():
            return (node.over, node.start, node.condition, node.step, node.result)
        case _:
            return ()


def nodes(tree: Node) -> Iterator[Node]:
    """All nodes of a tree, each before those below it."""
    yield tree
    for child in children(tree):
        yield from nodes(child)


def path_step(node: Node) -> tuple[Node, str | int] | None:
    """For `operand.field` and `operand[key]` with a literal key: the operand and the key."""
    match node:
        case Select(operand, field, False):
            return operand, field
        case Call("_[_]", (operand, Constant(str() | int() as key))):
            return operand, key
        case _:
            return None


def resolve(node: Node, values: Mapping[str, JSON]) -> tuple[str, JSON] | None:
    """For a path such as `input.leads[0].name` that leads somewhere: its words and its value."""
    if isinstance(node, Name):
        return (node.name, values[node.name]) if node.name in values else None
    step = path_step(node)
    found = resolve(step[0], values) if step else None
    if step is None or found is None:
        return None
    (path, value), key = found, step[1]
    if isinstance(value, dict) and isinstance(key, str) and key in value:
        return f"{path}.{key}", value[key]
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return f"{path}[{key}]", value[key]
    return None


def loop_depth(node: Node) -> int:
    """How many loops run inside each other at most."""
    below = max(map(loop_depth, children(node)), default=0)
    if isinstance(node, Loop):
        return max(below, 1 + max(loop_depth(node.step), loop_depth(node.condition)))
    return below


def _node(data: bytes, joins_lists: set[int]) -> Node:
    message = _fields(data)
    kind = next(field for field in message if field >= 3)
    inner = _fields(_blob(message, kind))

    def part(field: int) -> Node:
        return _node(_blob(inner, field), joins_lists)

    def parts(field: int) -> tuple[Node, ...]:
        return tuple(_node(blob, joins_lists) for blob in _blobs(inner, field))

    match kind:
        case 3:
            return _constant(inner)
        case 4:
            return Name(_text(inner, 1))
        case 5:
            return Select(part(1), _text(inner, 2), bool(_number(inner, 3)))
        case 6:
            return Call(_text(inner, 2), parts(1) + parts(3), _number(message, 2) in joins_lists)
        case 7:
            return Build(parts(1))
        case 8:
            entries = [_fields(entry) for entry in _blobs(inner, 2)]
            blobs = [blob for entry in entries for field in (3, 4) for blob in _blobs(entry, field)]
            return Build(tuple(_node(blob, joins_lists) for blob in blobs))
        case _:
            variables = tuple(name for name in (_text(inner, 1), _text(inner, 8)) if name)
            return Loop(variables, part(2), _text(inner, 3), part(4), part(5), part(6), part(7))


def _constant(inner: _Fields) -> Constant:
    if 6 in inner:
        text = _text(inner, 6)
        return Constant(text, len(text))
    if 3 in inner:
        number = _number(inner, 3)
        return Constant(number if number < 1 << 63 else None, 8)
    return Constant(None, 8 + len(_blob(inner, 7)))


def _fields(data: bytes) -> _Fields:
    """Values of a protobuf message by field number; fixed-width ones, which only number literals use, are left out."""
    found: _Fields = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        match key & 7:
            case 0:
                value, position = _varint(data, position)
                found.setdefault(key >> 3, []).append(value)
            case 2:
                length, position = _varint(data, position)
                found.setdefault(key >> 3, []).append(data[position : position + length])
                position += length
            case width:
                position += 8 if width == 1 else 4
    return found


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _blobs(message: _Fields, field: int) -> list[bytes]:
    return [value for value in message.get(field, ()) if isinstance(value, bytes)]


def _blob(message: _Fields, field: int) -> bytes:
    return next(iter(_blobs(message, field)), b"")


def _text(message: _Fields, field: int) -> str:
    return _blob(message, field).decode()


def _number(message: _Fields, field: int) -> int:
    return next((value for value in message.get(field, ()) if isinstance(value, int)), 0)
