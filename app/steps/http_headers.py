"""Which headers authors may set on outgoing requests."""

import re
from collections.abc import Mapping

from app.domain.errors import Problem
from app.steps.base import has_template, pointer

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,200}")
_FORBIDDEN_CHARACTERS = re.compile(r"[^\t\x20-\x7e\xa0-\xff]")
_MAX_VALUE = 8_192

# The client writes these itself; a second opinion about where a message ends is how requests are smuggled.
_RESERVED = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})


def header_problems(headers: Mapping[str, object]) -> list[Problem]:
    """Headers that may not be sent, with pointers relative to the headers. Templates are left for the run."""
    found: list[Problem] = []
    seen: set[str] = set()
    for name, value in headers.items():
        reason = _name_reason(name, seen) or (None if has_template(value) else _value_reason(value))
        if reason:
            found.append(Problem("invalid_header_value", reason, pointer((name,))))
        seen.add(name.lower())
    return found


def _name_reason(name: str, seen: set[str]) -> str | None:
    lower = name.lower()
    if not _NAME.fullmatch(name):
        return "A header name has only letters, digits and hyphens"
    if lower in _RESERVED:
        return f"The header {name} is set by the client itself; leave it out"
    if lower in _CREDENTIALS:
        return (
            f"The header {name} carries a credential, and a workflow is stored and shown as it is written; "
            "it can only come from a secret"
        )
    if lower in seen:
        return f"The header {name} is given twice"
    return None


def _value_reason(value: object) -> str | None:
    if not isinstance(value, str):
        return "A header value is text"
    if _FORBIDDEN_CHARACTERS.search(value) or value != value.strip():
        return "A header value has no line breaks, no other control characters, only Latin-1, and no spaces around it"
    if len(value) > _MAX_VALUE:
        return f"A header value has at most {_MAX_VALUE} characters"
    return None
