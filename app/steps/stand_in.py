"""The model `stand-in`: no AI, a deterministic local text generator for demos and tests.

Asked for text it says how long the request was and repeats its beginning, word by word. Asked for an object it gives
the first JSON block of the prompt (between ```json and ```), else the smallest object that a simple schema allows.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelRequest, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from app.domain.jsontext import NotJson, decode, encode

_FENCED_JSON = re.compile(r"```json\s*(.*?)```", re.DOTALL)
_QUOTED = 40
_MAX_DEPTH = 12


def stand_in_model() -> FunctionModel:
    """A fresh stand-in."""
    return FunctionModel(stream_function=_stream, model_name="stand-in")


async def _stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
    prompt = _prompt(messages)
    if info.output_tools:
        tool = info.output_tools[0]
        yield {0: DeltaToolCall(tool.name, _object(prompt, tool.parameters_json_schema))}
        return
    words = prompt.split()
    quoted = " ".join(words[:_QUOTED]) + (" …" if len(words) > _QUOTED else "")
    text = f"This is the stand-in, not an AI. The request has {len(words)} words and reads: {quoted}"
    for position, word in enumerate(text.split(" ")):
        yield f" {word}" if position else word
        await asyncio.sleep(0)


def _prompt(messages: list[ModelMessage]) -> str:
    for message in messages:
        if isinstance(message, ModelRequest):
            for part in message.parts:
                if isinstance(part, UserPromptPart) and isinstance(part.content, str):
                    return part.content
    return ""


def _object(prompt: str, schema: Mapping[str, Any]) -> str:
    fenced = _FENCED_JSON.search(prompt)
    if fenced:
        try:
            return encode(decode(fenced[1]))
        except NotJson:
            pass
    return encode(_smallest(schema, 0))


def _smallest(schema: Any, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    match kind:
        case "object":
            properties = schema.get("properties", {})
            return {name: _smallest(properties.get(name), depth + 1) for name in schema.get("required", properties)}
        case "array":
            return [_smallest(schema.get("items"), depth + 1) for _ in range(min(schema.get("minItems", 0), 100))]
        case "string":
            return "stand-in".ljust(schema.get("minLength", 0), "-")[: schema.get("maxLength", 1_000)]
        case "integer" | "number":
            return schema.get("minimum", min(0, schema.get("maximum", 0)))
        case "boolean":
            return False
        case _:
            return None
