"""Expressions: `${{ CEL }}` inside the values of a definition, compiled once and evaluated per run.

A value that is one whole `${{ }}` keeps the type of its result; inside text the result becomes text. Names are `input`,
`execution.<field>` and, for the steps upstream, `steps.<id>.output`, `.status` and `.error`. Evaluation has no effects
and cannot run away: CEL is not Turing-complete and its implementation stops at an iteration budget.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import orjson
from cel_expr_python import cel
from cel_expr_python.ext import ext_encoders, ext_math, ext_optional, ext_strings

from app.domain.errors import Problem, StepError
from app.domain.jsontext import JSON, NotJson, encode

MAX_EXPRESSION = 2_000

EXECUTION_FIELDS = ("id", "workflow_id", "workflow_version", "org_id", "user_id", "created_at")
STEP_FIELDS = ("output", "status", "error")

Lookup: TypeAlias = Callable[[str], JSON]
"""Gives the value of a name such as `input` or `steps.qualify.output`."""

_OPEN, _CLOSE = "${{", "}}"
_LITERAL = re.compile(
    r"""\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|//[^\n]*""",
    re.DOTALL,
)
_STEP_NAME = re.compile(r"(?<![\w.])steps\.([A-Za-z_]\w*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_EXTENSIONS = (ext_strings.ExtStrings, ext_math.ExtMath, ext_encoders.ExtEncoders, ext_optional.ExtOptional)


class Environment:
    """The names that expressions of one workflow may use; `step_ids` are the ids of all its steps."""

    def __init__(self, step_ids: Iterable[str]) -> None:
        self._steps = frozenset(step_ids)
        dyn = cel.Type.DYN
        names = {"input": dyn}
        names.update({f"execution.{field}": dyn for field in EXECUTION_FIELDS})
        names.update({f"steps.{step}.{field}": dyn for step in self._steps for field in STEP_FIELDS})
        self._names = tuple(names)
        self._env = cel.NewEnv(variables=names, extensions=[extension() for extension in _EXTENSIONS])

    def compile(self, source: str, upstream: frozenset[str]) -> "Expression":
        """Compile one expression that may refer to the steps in `upstream`; raises ExpressionError."""
        if len(source) > MAX_EXPRESSION:
            raise ExpressionError("expression_too_long", f"An expression has at most {MAX_EXPRESSION} characters")
        code = re.sub(r"\s+", "", _LITERAL.sub('""', source))
        try:
            program = self._env.compile(source)
        except (RuntimeError, ValueError, UnicodeError) as error:
            raise self._explain(source, code, str(error)) from error
        for step in _STEP_NAME.findall(code):
            if step in self._steps and step not in upstream:
                detail = f"`{source.strip()}` refers to step '{step}', which is not upstream: add it to `needs`"
                raise ExpressionError("reference_not_upstream", detail)
        return Expression(source.strip(), program, tuple(name for name in self._names if name in code))

    def _explain(self, source: str, code: str, message: str) -> "ExpressionError":
        for step in _STEP_NAME.findall(code):
            if step not in self._steps:
                return ExpressionError(
                    "unknown_step", f"`{source.strip()}` refers to step '{step}', which does not exist"
                )
        if undeclared := _UNDECLARED.search(message):
            detail = f"`{source.strip()}` uses '{undeclared[1]}', which is no name or function of expressions"
            return ExpressionError("unknown_name", detail)
        first_line = message.splitlines()[0].split("ERROR: ")[-1]
        return ExpressionError(
            "invalid_expression", f"`{source.strip()[:200]}` is not a CEL expression: {first_line[:300]}"
        )


class ExpressionError(ValueError):
    """An expression that does not compile: a stable code and a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, slots=True)
class Expression:
    """One compiled expression. `names` are those it may look up."""

    source: str
    program: Any
    names: tuple[str, ...]

    def evaluate(self, lookup: Lookup) -> JSON:
        """Its value; raises StepError with `expression_error`, `expression_limit` or `output_not_json`."""
        data = {name: lookup(name) for name in self.names}
        self._refuse_what_cel_would_cut(data)
        try:
            result = self.program.eval(data=data)
            value = result.plain_value()
        except RuntimeError as error:
            code = "expression_limit" if "budget" in str(error) else "expression_error"
            raise self._error(code, str(error)) from None
        if result.type().name() == "ERROR":
            raise self._error("expression_error", str(value).partition(": ")[2] or str(value))
        return self._as_json(value)

    def _refuse_what_cel_would_cut(self, data: Mapping[str, JSON]) -> None:
        try:
            text = orjson.dumps(list(data.values()))
        except TypeError as error:
            raise self._error("expression_error", str(error)) from None
        if b"\\u0000" in text:
            raise self._error("expression_error", "text with a NUL character cannot be used in expressions")

    def _as_json(self, value: object) -> JSON:
        if isinstance(value, datetime):
            return value.isoformat().replace("+00:00", "Z")
        if value is not None and not isinstance(value, bool | int | float | str | list | dict):
            raise self._error("output_not_json", f"its value is a {type(value).__name__}, which JSON does not have")
        plain: JSON = value
        try:
            encode(plain)
        except NotJson as error:
            raise self._error("output_not_json", str(error)) from None
        return plain

    def _error(self, code: str, detail: str) -> StepError:
        return StepError(f"Expression `{self.source[:200]}` failed: {detail}", code=code, retryable=False)


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled value of a definition. Constant ones evaluate to themselves."""

    node: Any
    constant: bool

    def evaluate(self, lookup: Lookup) -> Any:
        """The value with every expression replaced; raises StepError of the first that fails."""
        return self.node if self.constant else _evaluate(self.node, lookup)

    def truth(self, lookup: Lookup) -> bool:
        """The value of a condition; raises StepError unless it is true or false."""
        value = self.evaluate(lookup)
        if not isinstance(value, bool):
            found = "null" if value is None else type(value).__name__
            raise StepError(f"A condition must be true or false, not {found}", code="expression_error", retryable=False)
        return value


@dataclass(frozen=True, slots=True)
class _Text:
    parts: tuple[str | Expression, ...]


def _evaluate(node: Any, lookup: Lookup) -> Any:
    match node:
        case Expression():
            return node.evaluate(lookup)
        case _Text():
            return "".join(part if isinstance(part, str) else as_text(part.evaluate(lookup)) for part in node.parts)
        case list():
            return [_evaluate(item, lookup) for item in node]
        case dict():
            return {key: _evaluate(item, lookup) for key, item in node.items()}
        case _:
            return node


def as_text(value: JSON) -> str:
    """A value inside text: strings as they are, null as nothing, everything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else encode(value)


def compile_template(
    value: Any, environment: Environment, upstream: frozenset[str], pointer: str, problems: list[Problem]
) -> Template:
    """Compile every expression inside a value; what is wrong is appended to `problems` with its pointer."""
    found: list[bool] = []

    def compile_node(node: Any, at: str) -> Any:
        if isinstance(node, str) and _OPEN in node:
            found.append(True)
            return _compile_text(node, environment, upstream, at, problems)
        if isinstance(node, list | tuple):
            return [compile_node(item, f"{at}/{index}") for index, item in enumerate(node)]
        if isinstance(node, dict):
            return {key: compile_node(item, f"{at}/{escape(key)}") for key, item in node.items()}
        return node

    return Template(compile_node(value, pointer), constant=not found)


def compile_condition(
    value: str | bool, environment: Environment, upstream: frozenset[str], pointer: str, problems: list[Problem]
) -> Template:
    """Compile an `if`, which may leave out the `${{ }}`."""
    if isinstance(value, str) and _OPEN not in value:
        value = f"{_OPEN} {value} {_CLOSE}"
    return compile_template(value, environment, upstream, pointer, problems)


def is_template(value: object) -> bool:
    """True for text with an expression in it."""
    return isinstance(value, str) and _OPEN in value


def escape(key: object) -> str:
    """A key as a token of a JSON pointer."""
    return str(key).replace("~", "~0").replace("/", "~1")


def _compile_text(
    text: str, environment: Environment, upstream: frozenset[str], pointer: str, problems: list[Problem]
) -> Any:
    parts: list[str | Expression] = []
    try:
        for literal, source in _split(text):
            if literal:
                parts.append(literal)
            if source is not None:
                parts.append(environment.compile(source, upstream))
    except ExpressionError as error:
        problems.append(Problem(error.code, str(error), pointer))
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
    depth = 0
    while position < len(text):
        if literal := _LITERAL.match(text, position):
            position = literal.end()
            continue
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            if depth == 0 and text.startswith(_CLOSE, position):
                return position
            depth -= 1
        position += 1
    raise ExpressionError("invalid_expression", "An expression opened by '${{' is not closed by '}}'")
