"""JSON as stored text: what goes in comes out, and what cannot be JSON is refused here, once."""

import json
from typing import TypeAlias

import orjson

from app.domain.errors import StepError

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

_STRICT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


class NotJson(ValueError):
    """The value has no JSON form: NaN, infinity, bytes, a set, a lone surrogate, a key that is no string."""


def encode(value: JSON) -> str:
    """JSON text of a value; raises NotJson."""
    try:
        text = orjson.dumps(value, option=_STRICT)
        if value is not None and b"null" in text:
            json.dumps(
                value, allow_nan=False
            )  # orjson writes NaN and infinity as null; only the standard library objects
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error
    return text.decode()


def decode(text: str | bytes) -> JSON:
    """The value of a JSON text; raises NotJson. Integers beyond 64 bits become doubles."""
    try:
        value: JSON = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NotJson(str(error)) from error
    return value


def json_text(value: JSON, what: str) -> str:
    """The JSON of a value that came about in a run; raises StepError `output_not_json`, naming `what` it was."""
    try:
        return encode(value)
    except NotJson as error:
        raise StepError(f"{what} is not JSON: {error}", code="output_not_json", retryable=False) from None
