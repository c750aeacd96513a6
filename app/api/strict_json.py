"""JSON as clients may send it: of one meaning, of bounded depth, and with no number that does not exist."""

import re
from array import array
from itertools import accumulate

import orjson

from app.domain.errors import StepstreamError
from app.domain.jsontext import JSON

MAX_DEPTH = 32

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKETS = b"[{]}"
_STEPS = bytes.maketrans(_BRACKETS, bytes([1, 1, 255, 255]))
_OTHERS = bytes(set(range(256)) - {*_BRACKETS})


def read_json(body: bytes) -> JSON:
    """The value of a body; raises `invalid_json`, `json_too_deep` or `number_out_of_range`.

    Integers beyond 64 bits become doubles.
    """
    structure = _STRING.sub(b"", body)
    if _depth(structure) > MAX_DEPTH:
        raise StepstreamError(f"The body is nested more than {MAX_DEPTH} levels deep", code="json_too_deep")
    try:
        value: JSON = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "number is infinity" in str(error):
            detail = f"A number in the body is too large: line {error.lineno} column {error.colno}"
            raise StepstreamError(detail, code="number_out_of_range") from None
        raise StepstreamError(f"The body is not JSON: {error}", code="invalid_json") from None
    # Outside of strings each member has one colon; of members with the same key, only the last has become a value.
    if structure.count(b":") > _STRING.sub(b"", orjson.dumps(value)).count(b":"):
        raise StepstreamError("The body is not JSON of one meaning: an object has a key twice", code="invalid_json")
    return value


def _depth(structure: bytes) -> int:
    """How deeply brackets are nested, or could be; told without recursion, as the text may be nothing but brackets."""
    opened = structure.count(b"[") + structure.count(b"{")
    if opened <= MAX_DEPTH:
        return opened
    steps = array("b", structure.translate(_STEPS, _OTHERS))
    return max(accumulate(steps), default=0)
