"""JSON Schemas that users write: compiled without remote references and with patterns that cannot run away."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import jsonschema_rs

from app.domain.errors import MAX_PROBLEMS, Problem
from app.domain.expressions import escape

MAX_SCHEMA = 10_000
"""Nodes of a schema with its references written out."""

_MASK = "the value"


class UnsupportedSchema(ValueError):
    """A schema that is no JSON Schema, refers outside itself or to itself, or could take too long to check.

    `pointer` says where in the schema.
    """

    def __init__(self, detail: str, pointer: str = "") -> None:
        super().__init__(detail)
        self.pointer = pointer


def compile_schema(schema: dict[str, Any] | bool) -> jsonschema_rs.Validator:
    """A validator (Draft 2020-12 unless the schema says otherwise); raises UnsupportedSchema."""
    _check_references(schema)
    try:
        return jsonschema_rs.validator_for(
            schema, offline=True, mask=_MASK, pattern_options=jsonschema_rs.RegexOptions(size_limit=1 << 20)
        )
    except jsonschema_rs.ValidationError as error:
        pointer = "".join(f"/{escape(token)}" for token in error.instance_path)
        pattern = 'not a "regex"' in str(error.message)
        detail = "a pattern has no look-around and no back-references" if pattern else str(error.message)[:300]
        raise UnsupportedSchema(detail, pointer) from error
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise UnsupportedSchema(str(error).splitlines()[0][:300]) from error


def schema_problems(validator: jsonschema_rs.Validator, value: Any, code: str) -> list[Problem]:
    """The first mismatches of a value with a schema; values are not echoed, pointers are relative to the value."""
    return [
        Problem(code, _words(error)[:300], "".join(f"/{escape(token)}" for token in error.instance_path))
        for error in islice(validator.iter_errors(value), MAX_PROBLEMS)
    ]


def _words(error: jsonschema_rs.ValidationError) -> str:
    """What is wrong; of several forms that a value may have, what keeps it from each."""
    kind = error.kind
    if not isinstance(kind, jsonschema_rs.ValidationErrorKind.AnyOf):
        return str(error.message)
    return ", and ".join(dict.fromkeys(str(found[0].message) for found in kind.context if found))


def _check_references(schema: Any) -> None:
    try:
        if _written_out(schema, schema, {}) <= MAX_SCHEMA:
            return
    except RecursionError:
        raise UnsupportedSchema("it is nested too deeply") from None
    raise UnsupportedSchema(f"with its references written out it has more than {MAX_SCHEMA} nodes")


def _written_out(node: Any, root: Any, sizes: dict[str, int]) -> int:
    """How many nodes a schema has when each reference stands for what it refers to; raises UnsupportedSchema.

    References double what they refer to: forty in a row would take longer than anybody waits.
    """
    if isinstance(node, list):
        return 1 + sum(_written_out(item, root, sizes) for item in node)
    if not isinstance(node, dict):
        return 1
    shelves = {"$defs", "definitions"} if node is root else set()  # what lies there counts where it is referred to
    size = 1 + sum(_written_out(item, root, sizes) for key, item in node.items() if key not in shelves)
    return size + sum(_referred(target, root, sizes) for target in _references(node))


def _references(node: dict[str, Any]) -> Iterator[str]:
    for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
        target = node.get(keyword)
        if isinstance(target, str):
            yield target


def _referred(target: str, root: Any, sizes: dict[str, int]) -> int:
    if target == "#" or sizes.get(target) == 0:
        raise UnsupportedSchema(f"'{target[:200]}' refers to itself")
    if target not in sizes:
        if not target.startswith("#/"):
            raise UnsupportedSchema(f"'{target[:200]}' is no reference inside the schema, such as '#/$defs/lead'")
        sizes[target] = 0  # under way
        sizes[target] = _written_out(_at(root, target), root, sizes)
    return sizes[target]


def _at(root: Any, target: str) -> Any:
    node = root
    for token in target.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            raise UnsupportedSchema(f"'{target[:200]}' refers to nothing")
    return node
