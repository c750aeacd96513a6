"""Secret values, and what others commonly make of them, cut out of text before it is kept or told.

Known are the forms that libraries and servers write a value in without meaning to hide it: base64 at any alignment,
hexadecimal, URL-encoded, escaped for JSON or HTML. Whoever wants to get a value past this can; it is for accidents.
"""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import quote, quote_plus, urlsplit

import orjson

from app.domain.jsontext import decode, encode

MASK = "[secret]"
SHORTEST = 6
"""Characters: anything shorter would be cut out of innocent text."""

_PIECE = 16
_LINES = 100
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?')
_PERCENT = re.compile(r"%[0-9A-F]{2}")
_UNICODE = re.compile(r"\\u([0-9a-f]{4})")
_CAREFUL = re.compile("[&<>'+]")  # escaped by those who write JSON into web pages
# What is left alone by RFC 3986, by paths, by JavaScript's encodeURIComponent and encodeURI, and by httpx.
_LEFT_ALONE = ("", "/", "!*'()", ";,/?:@&=+$!*'()#", "!$&'()*+,;=:@/?[]%")


class Scrubber:
    """Cuts the values it knows out of text. It only ever learns more."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: frozenset[str] = frozenset()
        self._forms: tuple[str, ...] = ()
        self._in_json: tuple[str, ...] = ()
        self.learn(values)

    def learn(self, values: Iterable[str]) -> None:
        """Know these as well; those below SHORTEST are not cut out."""
        new = {value for value in values if len(value) >= SHORTEST} - self._values
        if not new:
            return
        found = {form for value in new for form in forms(value)}
        self._values |= new
        self._forms = tuple(sorted(found.union(self._forms), key=len, reverse=True))
        self._in_json = tuple({*self._in_json, *(orjson.dumps(form)[1:-1].decode() for form in found)})

    def text(self, text: str) -> str:
        """The text without the values."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text

    def json(self, text: str) -> str:
        """The same for JSON text, in which values may be escaped, or be numbers; it stays JSON."""
        if not any(map(text.__contains__, self._in_json)):
            return text
        scrubbed = _TOKEN.sub(self._token, text)
        return text if scrubbed == text else encode(decode(scrubbed))  # two keys may have become one

    def held(self, text: str) -> int:
        """How many characters at the end of the text may be the beginning of a value that goes on in the next text."""
        return max((_begun(text, form) for form in self._forms), default=0)

    def _token(self, found: re.Match[str]) -> str:
        token = found[0]
        if len(token) < len(self._forms[-1]):
            return token
        if token[0] != '"':
            return token if self.text(token) == token else f'"{MASK}"'
        said: str = orjson.loads(token)
        scrubbed = self.text(said)
        return token if scrubbed == said else orjson.dumps(scrubbed).decode()


def _begun(text: str, form: str) -> int:
    """How many characters at the end of the text are a beginning of the form."""
    at = text.find(form[0], max(0, len(text) - len(form) + 1))
    while at >= 0 and not form.startswith(text[at:]):
        at = text.find(form[0], at + 1)
    return len(text) - at if at >= 0 else 0


def forms(value: str) -> frozenset[str]:
    """A value, and what of it is told by itself, as it is and in the forms that this module knows."""
    shortest = min(SHORTEST, len(value))
    lines = [line for line in value.splitlines() if len(line) >= _PIECE and not line.startswith("-----")]
    written = {form for piece in (value, *_pieces(value)) for form in _forms(piece) if len(form) >= shortest}
    return frozenset(written.union(lines[:_LINES]))


def _pieces(value: str) -> Iterator[str]:
    """Of a URL the path and the query; what base64 stands for, and the password in it."""
    with suppress(ValueError):
        yield from (piece for piece in urlsplit(value)[2:4] if len(piece) >= _PIECE)
    with suppress(ValueError):
        decoded = base64.b64decode(value, validate=True).decode()
        if decoded.isprintable():
            yield from (piece for piece in (decoded, decoded.partition(":")[2]) if len(piece) >= SHORTEST)


def _forms(value: str) -> Iterator[str]:
    raw = value.encode("utf-8", "surrogatepass")
    yield value
    yield raw.hex()
    yield raw.hex().upper()
    yield from _base64(raw)
    for escaped in {quote_plus(raw), *(quote(raw, safe=safe) for safe in _LEFT_ALONE)}:
        yield escaped
        yield _PERCENT.sub(lambda found: found[0].lower(), escaped)
    for escaped in (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]):
        careful = _CAREFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped)
        for text in (escaped, escaped.replace("/", "\\/"), careful):
            yield text
            yield _UNICODE.sub(lambda found: f"\\u{found[1].upper()}", text)
    yield html.escape(value)
    yield html.escape(value, quote=False)
    yield html.escape(value).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


def _base64(raw: bytes) -> Iterator[str]:
    """By itself, and as it is found inside the base64 of something longer: without the characters at both ends that
    also depend on what is around."""
    alone = base64.b64encode(raw).decode()
    found = [alone, alone.rstrip("="), base64.encodebytes(raw).decode().strip()]
    found.append(found[-1].replace("\n", "\r\n"))
    for before in (0, 1, 2):
        around = base64.b64encode(b"\0" * before + raw).decode()
        found.append(around[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6])
    for text in found:
        yield text
        yield text.replace("+", "-").replace("/", "_")
        yield quote(text, safe="")
