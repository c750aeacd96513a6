"""Workflow definitions as bodies: strict JSON, or YAML that means exactly one JSON value.

YAML is read by the core schema of YAML 1.2, straight from the parser's events: `on`, `yes` and `2020-01-01` are text,
keys are text as written, and tags, anchors and aliases are refused, so that nothing is constructed and nothing expands.
"""

import asyncio
import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

from app.api.request import JSON as JSON_TYPE
from app.api.request import StrictRequest, demand_media_type
from app.api.strict_json import MAX_DEPTH, read_json
from app.domain.definition import WorkflowDefinition
from app.domain.errors import StepstreamError, clean_text
from app.domain.jsontext import JSON

YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml"})

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_PREFIXED = re.compile(r"0o[0-7]{1,21}|0x[0-9a-fA-F]{1,16}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_INTEGERS = range(-(1 << 63), 1 << 64)
_MOST_DIGITS = 21


async def read_document(request: StrictRequest) -> object:
    """The JSON value of the body; a dependency, to stand behind the one that authenticates.

    Raises what `demand_media_type` and `read_json` do, and `invalid_yaml`, with the line.
    """
    kind = demand_media_type(request, YAML_TYPES | {JSON_TYPE})
    body = await request.body()
    return await asyncio.to_thread(parse_yaml, body) if kind in YAML_TYPES else read_json(body)


def parse_yaml(body: bytes) -> JSON:
    """The value of the one YAML document in `body`; raises `invalid_yaml`."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _refusal("it is not UTF-8", _line_of(body, error.start)) from None
    reading = _Reading()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reading.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise _refusal(_words(error.problem, text, mark), mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise _refusal("there is a control character in it", _line_of(body, getattr(error, "position", 0))) from None
    if reading.documents == 0:
        raise _refusal("it is empty", None)
    return reading.root


@dataclass(slots=True)
class _Open:
    """A list or an object that is still being read; `key` waits for its value."""

    value: list[JSON] | dict[str, JSON]
    key: str | None = None

    @property
    def wants_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None


class _Reading:
    """Builds the value from events, without recursion."""

    def __init__(self) -> None:
        self.root: JSON = None
        self.documents = 0
        self._open: list[_Open] = []

    def take(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 0
        match event:
            case yaml.AliasEvent():
                raise _refusal("aliases are not accepted; write the value out", line)
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    raise _refusal("a second document begins; send one", line)
            case yaml.ScalarEvent():
                _plain_values_only(event, line)
                self._scalar(event, line)
            case yaml.SequenceStartEvent():
                _plain_values_only(event, line)
                self._descend([], line)
            case yaml.MappingStartEvent():
                _plain_values_only(event, line)
                self._descend({}, line)
            case yaml.CollectionEndEvent():
                self._open.pop()

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        inside = self._open[-1] if self._open else None
        if inside is not None and inside.wants_key:
            key = _storable(event.value, line)
            if key in inside.value:
                raise _refusal(f"the key '{clean_text(key, 100)}' is there twice", line)
            inside.key = key
        elif event.implicit[0]:
            self._add(_resolved(event.value, line))
        else:
            self._add(_storable(event.value, line))

    def _descend(self, value: list[JSON] | dict[str, JSON], line: int) -> None:
        if self._open and self._open[-1].wants_key:
            raise _refusal("a key is text, not a list or an object", line)
        if len(self._open) == MAX_DEPTH:
            raise _refusal(f"it is nested more than {MAX_DEPTH} levels deep", line)
        self._add(value)
        self._open.append(_Open(value))

    def _add(self, value: JSON) -> None:
        if not self._open:
            self.root = value
            return
        inside = self._open[-1]
        if isinstance(inside.value, list):
            inside.value.append(value)
        elif inside.key is not None:
            inside.value[inside.key] = value
            inside.key = None


def _plain_values_only(event: yaml.ScalarEvent | yaml.CollectionStartEvent, line: int) -> None:
    if event.anchor is not None:
        raise _refusal("anchors are not accepted; write the value out where it is used", line)
    if event.tag is not None:
        raise _refusal("tags are not accepted; quote what shall be text", line)


def _resolved(text: str, line: int) -> JSON:
    """The value of an unquoted scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if _PREFIXED.fullmatch(text):
        return int(text, 0)
    if _DECIMAL.fullmatch(text) and len(text) <= _MOST_DIGITS and (number := int(text)) in _INTEGERS:
        return number
    if _FLOAT.fullmatch(text) and math.isfinite(value := float(text)):
        return value
    if _FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        raise _refusal("the number has no JSON form; quote what shall be text", line)
    return _storable(text, line)


def _storable(text: str, line: int) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refusal("a lone surrogate is no character", line) from None
    return text


def _words(problem: str | None, text: str, mark: yaml.Mark | None) -> str:
    reason = problem or "it cannot be parsed"
    # The end of a line may be reported at the beginning of the next.
    if mark is not None and any("${{" in line for line in text.splitlines()[max(mark.line - 1, 0) : mark.line + 1]):
        return f"{reason}; an expression that has `: ` in it, such as `a ? b : c`, stands in quotes"
    return reason


def _line_of(body: bytes, position: int) -> int:
    return body.count(b"\n", 0, position) + 1


def _refusal(reason: str, line: int | None) -> StepstreamError:
    where = f"line {line}: " if line is not None else ""
    return StepstreamError(f"The body is not YAML of plain values: {where}{reason}", code="invalid_yaml")


DOCUMENT = "WorkflowDocument"

JSON_EXAMPLE: dict[str, JSON] = {
    "name": "Greet",
    "steps": [{"id": "greet", "type": "set", "with": {"text": "Hello, ${{ input }}!"}}],
    "output": "${{ steps.greet.output.text }}",
}

YAML_EXAMPLE = """\
name: Qualify leads
description: Scores leads and tells the hot ones from the rest.
input:
  type: object
  properties:
    leads: {type: array, items: {type: object}}
  required: [leads]
steps:
  - id: score
    type: function
    with:
      function: score_leads
      args: {leads: "${{ input.leads }}"}
  - id: route
    type: switch
    needs: [score]
    with:
      cases: {hot: "${{ steps.score.output.score > 0.8 }}"}
      default: cold
  - id: announce
    type: log
    needs: [route.hot]
    with: {message: "Best score: ${{ steps.score.output.score }}"}
output: ${{ steps.score.output }}
"""


def definition_body() -> dict[str, Any]:
    """The OpenAPI `requestBody` of the routes that take a definition."""
    schema = {"$ref": f"#/components/schemas/{DOCUMENT}"}
    return {
        "description": "The definition document itself, at most 2 MiB unless the operator set another limit.",
        "required": True,
        "content": {
            "application/json": {
                "schema": schema,
                "examples": {"greet": {"summary": "One step", "value": JSON_EXAMPLE}},
            },
            "application/yaml": {
                "schema": schema,
                "examples": {"qualify": {"summary": "Three steps, one of them conditional", "value": YAML_EXAMPLE}},
            },
        },
    }


def definition_schemas() -> dict[str, Any]:
    """The JSON Schemas that `definition_body` refers to, by name: the document and what it is made of."""
    schema = WorkflowDefinition.model_json_schema(ref_template="#/components/schemas/{model}")
    own = {"type": ["string", "null"], "pattern": "^[A-Za-z0-9_-]{1,64}$"}
    schema["properties"] = {
        "id": own | {"description": "Your own id of the workflow, when it is created; none: we make one."},
        "project_id": own | {"description": "The project it belongs to; not part of the stored definition."},
        **schema["properties"],
    }
    parts: dict[str, Any] = schema.pop("$defs", {})
    return {DOCUMENT: schema, **parts}
