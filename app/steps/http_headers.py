"""Which headers authors may set on outgoing requests."""

import re
from collections.abc import Mapping

from app.domain.errors import Problem
from app.domain.secrets import OpenedSecret, is_reference
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


def header_problems(headers: Mapping[str, object], *, resolved: bool) -> list[Problem]:
    """Headers that may not be sent, with pointers relative to the headers.

    Until they are `resolved`, expressions and references to secrets are left alone.
    """
    found: list[Problem] = []
    seen: set[str] = set()
    for name, value in headers.items():
        later = not resolved and (has_template(value) or is_reference(value))
        reason = (
            _name_reason(name, seen) or _credential_reason(name, value) or (None if later else _value_reason(value))
        )
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
    if lower in seen:
        return f"The header {name} is given twice"
    return None


def _credential_reason(name: str, value: object) -> str | None:
    if name.lower() not in _CREDENTIALS or is_reference(value) or isinstance(value, OpenedSecret):
        return None
    return (
        f"The header {name} carries a credential, and a workflow is stored and shown as it is written; "
        'it can only come from a secret: {"$secret": "name", "format": "Bearer {}"}'
    )


def _value_reason(value: object) -> str | None:
    text = value.text if isinstance(value, OpenedSecret) else value
    if not isinstance(text, str):
        return "A header value is text, or a secret that the definition itself names"
    if _FORBIDDEN_CHARACTERS.search(text) or text != text.strip():
        return "A header value has no line breaks, no other control characters, only Latin-1, and no spaces around it"
    if len(text) > _MAX_VALUE:
        return f"A header value has at most {_MAX_VALUE} characters"
    return None
