"""Durations as people write them: `500ms`, `30s`, `10m`, sums such as `1h30m`, ISO 8601 `PT10M`, or plain seconds."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_TEXT = re.compile(rf"(?:{_PART.pattern})+")
_ISO = re.compile(
    r"P(?:(?P<d>[0-9]{1,6})D)?"
    r"(?:T(?=[0-9])(?:(?P<h>[0-9]{1,9})H)?(?:(?P<m>[0-9]{1,9})M)?(?:(?P<s>[0-9]{1,12}(?:\.[0-9]{1,6})?)S)?)?"
)

LONGEST = timedelta(days=366).total_seconds()


def parse_duration(value: object) -> float:
    """Seconds of a duration, to the millisecond; raises ValueError with a sentence for the author."""
    seconds = _seconds(value)
    if seconds is None:
        raise ValueError("a duration is text such as '30s', '10m', '1h30m' or 'PT10M'")
    if not 0 <= seconds <= LONGEST:
        raise ValueError("a duration is between 0 and 366 days")
    return round(seconds, 3)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str):
        return None
    if _TEXT.fullmatch(value):
        return sum(float(amount) * _UNIT_SECONDS[unit] for amount, unit in _PART.findall(value))
    iso = _ISO.fullmatch(value)
    if iso and any(iso.groupdict().values()):
        return sum(float(amount) * _UNIT_SECONDS[unit] for unit, amount in iso.groupdict().items() if amount)
    return None


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back."""
    for unit in ("d", "h", "m", "s"):
        amount = seconds / _UNIT_SECONDS[unit]
        if amount >= 1 and amount == int(amount):
            return f"{int(amount)}{unit}"
    return f"{round(seconds * 1000)}ms"


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": ["string", "number"], "examples": ["30s", "10m", "PT1H"]}),
]
"""Seconds as a float inside, a duration text outside."""


def _not_zero(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("this duration is at least 1ms")
    return seconds


Span = Annotated[Duration, AfterValidator(_not_zero)]
"""A duration that is not zero."""
