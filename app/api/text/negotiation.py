"""Which form of an execution a client wants, by its Accept header."""

from collections.abc import Iterator
from enum import StrEnum


class Form(StrEnum):
    """The forms, by media type; the first one is answered to whoever does not say otherwise."""

    JSON = "application/json"
    PLAIN = "text/plain"
    MARKDOWN = "text/markdown"
    MERMAID = "text/vnd.mermaid"


_LONGEST = 4_000


def negotiate(accept: str | None) -> Form:
    """The form with the highest quality; of equal ones that named most exactly, then the first in the header.

    JSON if none of them is acceptable: a client that cannot use it is better told so by its own parser.
    """
    ranges = [*_ranges(accept or "*/*")]
    best, chosen = (0.0, -1, 0), Form.JSON
    for form in Form:
        found = [(exactness, -place, quality) for place, (name, quality) in enumerate(ranges)
                 if (exactness := _exactness(name, form)) is not None]  # fmt: skip
        if not found:
            continue
        exactness, place, quality = max(found)
        if quality > 0 and (quality, exactness, place) > best:
            best, chosen = (quality, exactness, place), form
    return chosen


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """The media ranges of a header with their qualities; what cannot be read is left out."""
    for part in accept[:_LONGEST].split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = _quality(parameters)
        if name and quality is not None:
            yield name, quality


def _quality(parameters: list[str]) -> float | None:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            text = value.strip()
            if not text.replace(".", "", 1).isdecimal() or not text.isascii() or len(text) > 5:
                return None
            return min(float(text), 1.0)
    return 1.0


def _exactness(name: str, form: Form) -> int | None:
    """How exactly a media range names a form; None: it does not."""
    if name == form.value:
        return 2
    if name == f"{form.value.partition('/')[0]}/*" and form is not Form.MERMAID:
        return 1
    return 0 if name == "*/*" and form is Form.JSON else None
