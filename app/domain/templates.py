"""Values with expressions in them: `${{ … }}`.

A value that is one whole `${{ }}` keeps the type of its result; inside text the result becomes text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.domain.cel_words import kind_of
from app.domain.errors import Problem, StepError
from app.domain.expressions import (
    MAX_EXPRESSION,
    Environment,
    Expression,
    ExpressionError,
    Lookup,
    Room,
    as_text,
    escape,
    is_template,
)

_OPEN, _CLOSE = "${{", "}}"
_LITERAL = re.compile(
    r"""\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|//[^\n]*""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled value of a definition."""

    node: Any

    @property
    def constant(self) -> bool:
        """There is no expression in it."""
        return _constant(self.node)

    def evaluate(self, lookup: Lookup) -> Any:
        """The value with every expression replaced, nothing in it shared; raises StepError of the first that fails."""
        return _evaluate(self.node, lookup, Room())

    def truth(self, lookup: Lookup) -> bool:
        """The value of a condition; raises StepError unless it is true or false."""
        value = self.evaluate(lookup)
        if not isinstance(value, bool):
            source = f" `{self.node.source}`" if isinstance(self.node, Expression) else ""
            message = f"The condition{source} must be true or false, not {kind_of(value)}"
            raise StepError(message, code="expression_error", retryable=False)
        return value


@dataclass(frozen=True, slots=True)
class _Text:
    parts: tuple[str | Expression, ...]


def _constant(node: Any) -> bool:
    match node:
        case Expression() | _Text():
            return False
        case list():
            return all(map(_constant, node))
        case dict():
            return all(map(_constant, node.values()))
        case _:
            return True


def _evaluate(node: Any, lookup: Lookup, room: Room) -> Any:
    match node:
        case Expression():
            return node.evaluate(lookup, room)
        case _Text():
            return "".join(
                part if isinstance(part, str) else as_text(part.evaluate(lookup, room)) for part in node.parts
            )
        case list():
            return [_evaluate(item, lookup, room) for item in node]
        case dict():
            return {key: _evaluate(item, lookup, room) for key, item in node.items()}
        case _:
            return node


@dataclass(frozen=True, slots=True)
class TemplateCompiler:
    """Compiles the templates of one place; what is wrong is appended to `problems` with its pointer."""

    environment: Environment
    upstream: frozenset[str]
    problems: list[Problem]
    local: frozenset[str] = frozenset()

    def template(self, value: Any, pointer: str) -> Template:
        """Any value, with every expression in it."""
        return Template(self._node(value, pointer))

    def condition(self, value: str | bool, pointer: str) -> Template:
        """An `if`: one expression, which may leave out the `${{ }}`."""
        if isinstance(value, str):
            value = value.strip()
            if not is_template(value):
                value = f"{_OPEN} {value} {_CLOSE}"
        compiled = self.template(value, pointer)
        if isinstance(compiled.node, _Text):
            detail = "A condition is one expression: text around a `${{ }}` would make it text"
            self.problems.append(Problem("invalid_expression", detail, pointer))
        return compiled

    def _node(self, node: Any, pointer: str) -> Any:
        if is_template(node):
            return self._text(node, pointer)
        if isinstance(node, list | tuple):
            return [self._node(item, f"{pointer}/{index}") for index, item in enumerate(node)]
        if isinstance(node, dict):
            return {key: self._node(item, f"{pointer}/{escape(key)}") for key, item in node.items()}
        return node

    def _text(self, text: str, pointer: str) -> Any:
        parts: list[str | Expression] = []
        try:
            for literal, source in _split(text):
                if literal:
                    parts.append(literal)
                if source is not None:
                    parts.append(self.environment.compile(source, self.upstream, self.local))
        except ExpressionError as error:
            self.problems.append(Problem(error.code, str(error), pointer))
            return None
        if len(parts) == 1 and isinstance(parts[0], Expression):
            return parts[0]
        return _Text(tuple(parts))


def _split(text: str) -> Iterator[tuple[str, str | None]]:
    """Pairs of literal text and the expression source behind it (None at the end)."""
    position = 0
    while (start := text.find(_OPEN, position)) >= 0:
        end = _closing(text, start + len(_OPEN))
        yield text[position:start], text[start + len(_OPEN) : end]
        position = end + len(_CLOSE)
    yield text[position:], None


def _closing(text: str, position: int) -> int:
    """Index of the `}}` that ends an expression; braces and strings of CEL in between do not."""
    depth, limit = 0, position + 2 * MAX_EXPRESSION
    while position < min(limit, len(text)):
        if literal := _LITERAL.match(text, position, limit):
            position = literal.end()
            continue
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            if depth == 0 and text.startswith(_CLOSE, position):
                return position
            depth -= 1
        position += 1
    if position >= limit:
        raise ExpressionError("expression_too_long", f"An expression has at most {MAX_EXPRESSION} characters")
    raise ExpressionError("invalid_expression", "An expression opened by '${{' is not closed by '}}'")
