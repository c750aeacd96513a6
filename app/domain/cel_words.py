"""What CEL reports, said so that the author of an expression understands it. Names are told, values are not."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from app.domain.cel_tree import Call, Node, Select, nodes, path_step, resolve
from app.domain.jsontext import JSON

Words: TypeAlias = Callable[[re.Match[str]], str]

_KINDS = {
    "int64": "a whole number",
    "int": "a whole number",
    "uint64": "an unsigned number",
    "uint": "an unsigned number",
    "double": "a decimal number",
    "string": "text",
    "bool": "true or false",
    "null_type": "null",
    "list": "a list",
    "map": "an object",
    "timestamp": "a time",
    "google.protobuf.Timestamp": "a time",
    "google.protobuf.Duration": "a duration",
    "dyn": "any value",
}
_NUMBERS = frozenset({"int64", "int", "uint64", "uint", "double"})
_BRANCHING = frozenset({"_?_:_", "_&&_", "_||_"})


def runtime_words(message: str, tree: Node, values: Mapping[str, JSON]) -> str:
    """A failure of an evaluation in words; `values` are those of the tree's names."""
    text = re.sub(r"^[A-Z_]+: | \[[A-Z_]+\]$", "", message)
    if _LEADS_NOWHERE.match(text) and not any(map(_decides, nodes(tree))):
        # Where an expression has branches, the gap that is found might lie on the one that was not taken.
        for gap in _gaps(tree, values):
            return gap
    return _first(_RUNTIME, text) or text


def compile_words(message: str) -> str:
    """Why an expression does not compile, in words."""
    found = re.search(r"<input>:(\d+):(\d+): (.*)", message)
    if not found:
        return _first(_COMPILE, message) or message.splitlines()[0][:300]
    place = f"character {found[2]}" if found[1] == "1" else f"line {found[1]}, character {found[2]}"
    return f"at {place}: {_first(_COMPILE, found[3]) or found[3][:300]}"


def kind_of(value: JSON) -> str:
    """The kind of a value, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "an object"


def _first(table: tuple[tuple[str, str | Words], ...], text: str) -> str | None:
    for pattern, words in table:
        if found := re.search(pattern, text):
            return found.expand(words) if isinstance(words, str) else words(found)
    return None


def _kind(name: str) -> str:
    return _KINDS.get(name.partition("(")[0], name)


def _types(text: str | None) -> list[str]:
    """The types in `int64, map(string, dyn)`."""
    found, depth = [""], 0
    for character in text or "":
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            found.append("")
        else:
            found[-1] += character
    return [part.strip() for part in found if part]


def _misfit(function: str, types: list[str]) -> str:
    """No form of a function takes arguments of these types."""
    if function == "_?._" and types:
        return f"`.?` looks into objects, not into {_kind(types[0])}"
    name = function.strip("_@")
    if not types or name in {"!", "&&", "||", "?_:"}:
        return "what `? :`, `&&`, `||`, `!` or a loop decides by must be true or false"
    words = f"`{name}` does not work on {' and '.join(map(_kind, types))}"
    if len(types) == 2 and types[0] != types[1]:
        if _NUMBERS.issuperset(types):
            return f"{words}; make both the same with int() or double()"
        if name == "+" and "string" in types and _NUMBERS.issuperset({*types} - {"string"}):
            return f"{words}; make the number text with string()"
    return words


_LEADS_NOWHERE = re.compile("Key not found in map|Applying SELECT to non-message type|Index error: index=")

_RUNTIME: tuple[tuple[str, str | Words], ...] = (
    (r'Key not found in map : "?(.*?)"?$', r"there is no field '\1'"),
    ("Applying SELECT to non-message", "only objects have fields; one is asked of null, text, a number or a list"),
    (r"Index error: index=(-?\d+) size=(\d+)", r"there is no element [\1] in a list of \2"),
    (
        r"Index error: expected integer type, got (\w+)",
        lambda found: f"a list is counted by numbers, not {_kind(found[1])}",
    ),
    (
        r"No matching overloads found : \((.+?)\)\.(\w+)\((.*)\)",
        lambda found: _misfit(found[2], [found[1], *_types(found[3])]),
    ),
    (r"No matching overloads found : ([^\s(]+)(?:\((.*)\))?$", lambda found: _misfit(found[1], _types(found[2]))),
    ("(?:divide|modulus) by zero", "it divides by zero"),
    (r"overflow|out of u?int64 range", "a whole number gets too large"),
    (r"cannot convert string to (\w+)", lambda found: f"the text is not {_kind(found[1])}"),
    (r"conversion error from '(\w+)' to '(\w+)'", lambda found: f"the {found[1]} is not {_kind(found[2])}"),
    ("String to Timestamp", "the text is not a time such as 2030-01-31T09:00:00Z"),
    ("String to Duration", "the text is not a duration such as 90s"),
    ("Iteration budget", "its loops go over too many elements; 10,000 in all are the limit"),
)

_COMPILE: tuple[tuple[str, str | Words], ...] = (
    ("recursion", "it is nested too deeply; 32 levels are the limit"),
    (
        r"overload for '(.+?)' applied to '(\w*)\.?\((.*)\)'",
        lambda found: _misfit(found[1], [*_types(found[2]), *_types(found[3])]),
    ),
    ("Syntax error: .*'<EOF>'", "it ends too early"),
    (r"Syntax error: token recognition error at: '(.*)'", r"\1 is not understood; perhaps a quote is missing"),
    (r"Syntax error: [a-z ]+ '(.+?)'", r"'\1' is not expected here"),
)


def _decides(node: Node) -> bool:
    return (isinstance(node, Call) and node.function in _BRANCHING) or (isinstance(node, Select) and node.test)


def _gaps(tree: Node, values: Mapping[str, JSON]) -> Iterator[str]:
    """Where paths such as `steps.qualify.output.lead.name` lead nowhere."""
    for node in nodes(tree):
        step = path_step(node)
        found = resolve(step[0], values) if step else None
        if step is None or found is None:
            continue
        (path, value), key = found, step[1]
        if isinstance(value, list) and isinstance(key, int) and key >= len(value):
            yield f"`{path}` has {len(value)} elements, so there is no [{key}]"
        elif isinstance(value, dict) and isinstance(key, str) and key not in value:
            yield f"`{path}` has no field '{key}'"
        elif not isinstance(value, dict) and isinstance(key, str):
            yield f"`{path}` is {kind_of(value)}, so it has no field '{key}'"
