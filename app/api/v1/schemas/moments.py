"""Times as clients write them."""

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator

_DATE_AND_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:.*")


def _text(value: object) -> object:
    if isinstance(value, str) and _DATE_AND_TIME.fullmatch(value):
        return value
    raise ValueError("a time is text such as 2030-01-31T09:00:00Z")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time is between the years 1 and 9999 in UTC") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_text), AfterValidator(_in_utc)]
"""An RFC 3339 time, in UTC; numbers are none."""
