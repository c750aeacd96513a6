"""Expressions: CEL, compiled once and evaluated per run.

Names are `input`, `execution.<field>` and, for the steps upstream, `steps.<id>.output`, `.status` and `.error`.
Evaluation has no effects and cannot run away: CEL always ends, its implementation counts the rounds of loops, and what
could take too much work or memory is refused before it starts.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import orjson
from cel_expr_python import cel
from cel_expr_python.ext import ext_encoders, ext_math, ext_optional, ext_strings

from app.domain.cel_cost import MAX_WORK, TooMuch, check_work
from app.domain.cel_functions import FUNCTIONS
from app.domain.cel_tree import Call, Constant, Node, free_names, loop_depth, nodes, read_tree, resolve
from app.domain.cel_words import compile_words, runtime_words
from app.domain.errors import StepError, clean_text
from app.domain.jsontext import JSON, encode
from app.domain.regex_cost import states_of

MAX_EXPRESSION = 2_000
MAX_VALUE = 1 << 24
"""Characters, roughly, of the JSON that the expressions of one value may come to."""
MAX_WORK_OF_ALL = 8 * MAX_WORK
MAX_LOOP_DEPTH = 6
MAX_EXPRESSIONS = 5_000
"""In one workflow."""

EXECUTION_FIELDS = ("id", "workflow_id", "workflow_version", "org_id", "user_id", "created_at")
STEP_FIELDS = ("output", "status", "error")
LOCAL_NAMES = {
    "item": "a step with `for_each`",
    "index": "a step with `for_each` or `repeat`",
    "output": "a step with `repeat`",
}
"""Names that only some steps have, and which."""

Lookup: TypeAlias = Callable[[str], JSON]
"""Gives the value of a name such as `input` or `steps.qualify.output`."""

MAX_CHECKED_STATES = 200
"""A pattern larger than this is tried at the run only."""

_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_EXTENSIONS = (ext_strings.ExtStrings, ext_math.ExtMath, ext_encoders.ExtEncoders, ext_optional.ExtOptional)
_INT64 = range(-(1 << 63), 1 << 63)
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_NODE_SIZE = 64
_HAND_OVER = 4
"""What it takes to give CEL a byte of JSON."""
_MATCHES = cel.NewEnv(variables={"pattern": cel.Type.STRING}).compile("''.matches(pattern)")


class ExpressionError(ValueError):
    """An expression that does not compile: a stable code and a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Environment:
    """The names that expressions of one workflow may use; `step_ids` are the ids of all its steps."""

    def __init__(self, step_ids: Iterable[str]) -> None:
        self._steps = frozenset(step_ids)
        self._compiled = 0
        names = ["input", *LOCAL_NAMES, *(f"execution.{field}" for field in EXECUTION_FIELDS)]
        names += [f"steps.{step}.{field}" for step in self._steps for field in STEP_FIELDS]
        self._names = frozenset(names)
        variables = dict.fromkeys(names, cel.Type.DYN)
        self._env = cel.NewEnv(
            variables=variables, extensions=[extension() for extension in _EXTENSIONS], functions=FUNCTIONS
        )

    def compile(self, source: str, upstream: frozenset[str], local: frozenset[str] = frozenset()) -> "Expression":
        """Compile one expression that may refer to the steps in `upstream` and to these of LOCAL_NAMES.

        Raises ExpressionError.
        """
        self._compiled += 1
        if self._compiled > MAX_EXPRESSIONS:
            detail = f"A workflow has at most {MAX_EXPRESSIONS:,} expressions"
            raise ExpressionError("too_many_expressions", detail)
        source = source.strip()
        if len(source) > MAX_EXPRESSION:
            raise ExpressionError("expression_too_long", f"An expression has at most {MAX_EXPRESSION} characters")
        if clean_text(source) != source:
            detail = "An expression cannot have NUL characters or halves of surrogate pairs"
            raise ExpressionError("invalid_expression", detail)
        try:
            program = self._env.compile(source)
        except (RuntimeError, ValueError) as error:
            raise self._explained(source, str(error)) from None
        tree = read_tree(program.serialize())
        if loop_depth(tree) > MAX_LOOP_DEPTH:
            detail = f"`{_shown(source)}` has more than {MAX_LOOP_DEPTH} loops inside each other"
            raise ExpressionError("expression_too_deep", detail)
        for reason in filter(None, map(_refused_pattern, nodes(tree))):
            raise ExpressionError(
                "unsupported_regex", f"`{_shown(source)}` has a pattern that RE2 does not take: {reason}"
            )
        names = tuple(name for name in dict.fromkeys(free_names(tree)) if name in self._names)
        for name in names:
            if name in LOCAL_NAMES and name not in local:
                detail = f"`{_shown(source)}` uses '{name}', which there is only in {LOCAL_NAMES[name]}"
                raise ExpressionError("unknown_name", detail)
            step = _step_of(name)
            if step is not None and step not in upstream:
                detail = f"`{_shown(source)}` refers to step '{step}', which is not upstream: add it to `needs`"
                raise ExpressionError("reference_not_upstream", detail)
        return Expression(source, program, tree, names)

    def _explained(self, source: str, message: str) -> ExpressionError:
        undeclared = _UNDECLARED.search(message)
        if undeclared is None:
            code = "expression_too_deep" if "recursion" in message else "invalid_expression"
            detail = f"`{_shown(source)}` is not a CEL expression: {compile_words(message)}"
            return ExpressionError(code, detail)
        name = undeclared[1]
        step = _step_of(name)
        if step is not None and step not in self._steps:
            detail = f"`{_shown(source)}` refers to step '{step}', which does not exist"
            return ExpressionError("unknown_step", detail)
        return ExpressionError("unknown_name", f"`{_shown(source)}` uses '{name}', {_what_there_is(name)}")


@dataclass(frozen=True, slots=True)
class Expression:
    """One compiled expression. `names` are those it looks up."""

    source: str
    program: Any
    tree: Node
    names: tuple[str, ...]

    def evaluate(self, lookup: Lookup, room: "Room | None" = None) -> JSON:
        """Its value; raises StepError with `expression_error`, `expression_limit` or `output_not_json`.

        The value is a fresh one, and takes its size and its work out of `room`.
        """
        room = room or Room()
        values = {name: lookup(name) for name in self.names}
        try:
            if (found := resolve(self.tree, values)) is not None:
                return room.copy(found[1])
            values, size = _readable(values)
            room.work(check_work(self.tree, values) + _HAND_OVER * size)
            return self._evaluated(values, room)
        except _Refusal as refusal:
            raise self._error(refusal.code, str(refusal)) from None
        except TooMuch as error:
            raise self._error("expression_limit", str(error)) from None

    def _evaluated(self, values: Mapping[str, JSON], room: "Room") -> JSON:
        try:
            result = self.program.eval(data=values)
        except (RuntimeError, MemoryError) as error:
            code = "expression_limit" if "budget" in str(error) else "expression_error"
            raise _Refusal(code, runtime_words(str(error), self.tree, values)) from None
        if result.type().name() == "ERROR" and not _is_optional(result):
            raise _Refusal("expression_error", runtime_words(str(result.value()), self.tree, values))
        return _read(result, room)

    def _error(self, code: str, detail: str) -> StepError:
        return StepError(f"Expression `{_shown(self.source)}` failed: {detail}", code=code, retryable=False)


class Room:
    """How much the expressions of one value may still come to."""

    def __init__(self) -> None:
        self._left = MAX_VALUE
        self._work_left = MAX_WORK_OF_ALL

    def work(self, work: int) -> None:
        """Raises if there is no time for so much work: one value may have thousands of expressions."""
        self._work_left -= work
        if self._work_left < 0:
            raise _Refusal("expression_limit", "the expressions of this value together could take too much work")

    def take(self, size: int) -> None:
        """Raises if there is not so much room."""
        self._left -= size
        if self._left < 0:
            raise _Refusal("expression_limit", f"the value would be larger than {MAX_VALUE >> 20} MiB")

    def copy(self, value: JSON) -> JSON:
        """A copy of a value that shares no list or object with it."""
        if isinstance(value, dict):
            self.take(_NODE_SIZE)
            return {key: self.copy(item) for key, item in value.items()}
        if isinstance(value, list):
            self.take(_NODE_SIZE)
            return [self.copy(item) for item in value]
        self.take(len(value) if isinstance(value, str) else 8)
        return value


class _Refusal(Exception):
    """Why an evaluation fails: a code and the sentence behind the expression's name."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def is_template(value: object) -> bool:
    """True for text with an expression in it."""
    return isinstance(value, str) and "${{" in value


def as_text(value: JSON) -> str:
    """A value inside text: strings as they are, null as nothing, everything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else encode(value)


def escape(key: object) -> str:
    """A key as a token of a JSON pointer."""
    return str(key).replace("~", "~0").replace("/", "~1")


def _shown(source: str) -> str:
    return source if len(source) <= 200 else source[:199] + "…"


def _step_of(name: str) -> str | None:
    root, _, rest = name.partition(".")
    return rest.partition(".")[0] or None if root == "steps" else None


def _refused_pattern(node: Node) -> str | None:
    """Why the pattern of a `matches` could never match, if it is known by now."""
    match node:
        case Call("matches", (_, Constant(str() as pattern))) if states_of(pattern) <= MAX_CHECKED_STATES:
            result = _MATCHES.eval(data={"pattern": pattern})
            return str(result.value()).rpartition(": ")[2][:200] if result.type().name() == "ERROR" else None
        case _:
            return None


def _what_there_is(name: str) -> str:
    match name.partition(".")[0]:
        case "steps":
            return "but of a step there is `.output`, `.status` and `.error`, such as `steps.qualify.output`"
        case "execution":
            return f"but of the execution there is {', '.join(f'`.{field}`' for field in EXECUTION_FIELDS)}"
        case _:
            return "which is no name or function; names are `input`, `execution.id`, `steps.<id>.output` and the like"


def _readable(values: dict[str, JSON]) -> tuple[dict[str, JSON], int]:
    """Values as CEL can take them, and their size: it would cut text at a NUL, and knows numbers of 64 bits only."""
    given = list(values.values())
    try:
        text = orjson.dumps(given, option=orjson.OPT_STRICT_INTEGER)
    except TypeError:  # among other things for whole numbers beyond 53 bits
        values = {name: _doubled(value) for name, value in values.items()}
        try:
            text = orjson.dumps(given)
        except TypeError as error:
            raise _Refusal("expression_error", f"a value it uses is not JSON: {error}") from None
    if b"\\u0000" in text and _NUL.search(text):
        raise _Refusal("expression_error", "text with a NUL character cannot be used in expressions")
    return values, len(text)


def _doubled(value: JSON) -> JSON:
    """Whole numbers beyond 64 bits as decimal numbers."""
    if isinstance(value, dict):
        return {key: _doubled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_doubled(item) for item in value]
    return float(value) if isinstance(value, int) and value not in _INT64 else value


def _is_optional(value: Any) -> bool:
    """An optional has the type of an error, but cannot be converted."""
    try:
        value.value()
    except (TypeError, SystemError):
        return True
    return False


def _read(value: Any, room: Room) -> JSON:
    """The JSON of a CEL value. A null is told by its type: converting it would cost CPython's None a reference."""
    room.take(_NODE_SIZE)
    kind = value.type().name().partition("<")[0]
    match kind:
        case "NULL":
            return None
        case "BOOL" | "INT" | "UINT":
            plain: JSON = value.value()
            return plain
        case "STRING":
            text: str = value.value()
            room.take(len(text))
            return text
        case "DOUBLE":
            return _finite(value.value())
        case "LIST":
            return [_read(item, room) for item in value.value()]
        case "MAP":
            return {_key(key): _read(item, room) for key, item in value.value().items()}
        case "TIMESTAMP":
            moment: datetime = value.value()
            return moment.isoformat().replace("+00:00", "Z")
        case "ERROR":
            raise _Refusal("output_not_json", "its value is optional: say what it is otherwise with `.orValue(…)`")
        case "DURATION" | "BYTES":
            raise _Refusal(
                "output_not_json", f"its value is a {kind.lower()}, which JSON does not have: use `string()`"
            )
        case _:
            raise _Refusal("output_not_json", f"its value is a {kind.lower()}, which JSON does not have")


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise _Refusal("output_not_json", f"its value is {number}, which JSON does not have")
    return number


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise _Refusal("output_not_json", "its value is a map with keys that are not text, which JSON does not have")
    return key
