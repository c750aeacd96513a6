"""Which failures are the same one: a fingerprint over where a run failed and how, without what differs each time.

Ids, numbers, addresses and quoted values of a message become placeholders, so that `user 17 not found` and
`user 18 not found` are one failure. The form of the fingerprint is stored: a change here starts new groups.
"""

import hashlib
import re

LENGTH = 24
LONGEST_MESSAGE = 2_000

_ITEM = re.compile(r"\[\d+\]")
_SPACE = re.compile(r"\s+")
_VARIABLE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s\"'`<>]+", re.IGNORECASE), "<url>"),
    (re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"), "<email>"),
    (re.compile(r"\"(?:[^\"\\]|\\.)*\"|`[^`]*`|“[^”]*”|\u2018[^\u2019]*\u2019"), "<value>"),
    (re.compile(r"(?<!\w)'(?:[^'\\]|\\.)*'(?!\w)"), "<value>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b[a-z]{2,10}_[0-9a-z]{20,40}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,128}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\d+(?:[.,:]\d+)*(?:e[+-]?\d+)?", re.IGNORECASE), "<n>"),
)


def normalized(message: str) -> str:
    """The message with placeholders for what differs from one failure to the next."""
    text = message[:LONGEST_MESSAGE]
    for pattern, placeholder in _VARIABLE:
        text = pattern.sub(placeholder, text)
    return _SPACE.sub(" ", text).strip().casefold()


def fingerprint(workflow_id: str, step_id: str | None, error_code: str | None, message: str | None) -> str:
    """24 hexadecimal digits: equal for failures of the same workflow, step, code and normalised message.

    Items of a `for_each` (`map[3]`) count as their step. `step_id` is None for a failure that is no step's.
    """
    step = _ITEM.sub("", step_id or "")
    parts = (workflow_id, step, error_code or "", normalized(message or ""))
    # The lengths keep parts apart whatever characters they hold.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:LENGTH]
