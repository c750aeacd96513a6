"""A hostile outside world: an HTTP server that gives back whatever it is sent, in every form it can think of."""

import asyncio
import base64
import html
import json
import re
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote, quote_plus, unquote_plus


def forms_of(value: str) -> dict[str, str]:
    """What a value looks like when it is written by somebody else."""
    raw = value.encode()
    return {
        "raw": value,
        "base64": base64.b64encode(raw).decode(),
        "urlsafe base64": _urlsafe(base64.b64encode(raw).decode()),
        "hex": raw.hex(),
        "HEX": raw.hex().upper(),
        "URL": quote(value, safe=""),
        "url": re.sub("%..", lambda found: found[0].lower(), quote(value, safe="")),
        "path": quote(value),
        "form": quote_plus(value),
        "JSON": json.dumps(value)[1:-1],
        "JSON in Unicode": json.dumps(value, ensure_ascii=False)[1:-1],
        "JSON of PHP": json.dumps(value)[1:-1].replace("/", "\\/"),
        "HTML": html.escape(value),
    }


def inside_of(value: str) -> dict[str, tuple[str, str]]:
    """The base64 of something longer with the value in it, and what of that depends on the value alone."""
    found: dict[str, tuple[str, str]] = {}
    for before, after in ((1, 5), (2, 4), (3, 3)):
        whole = base64.b64encode(b"-" * before + value.encode() + b"-" * after).decode()
        found[f"base64 behind {before}"] = whole, whole[4:-8]
        found[f"urlsafe base64 behind {before}"] = _urlsafe(whole), _urlsafe(whole[4:-8])
    return found


def _urlsafe(text: str) -> str:
    return text.replace("+", "-").replace("/", "_")


class Parrot:
    """Knows the values it gives back; everything it was sent is kept in `heard`."""

    def __init__(self, values: list[str]) -> None:
        self.values = values
        self.heard: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            self.heard.append(unquote_plus(head) + head + body.decode() + unquote_plus(body.decode()))
            answers = self._answers()
            writer.write(answers.get(head.split(" ")[1].partition("?")[0], answers["/nothing"])(head))
            await writer.drain()
        writer.close()

    def _answers(self) -> dict[str, Callable[[str], bytes]]:
        said = [text for value in self.values for text in forms_of(value).values()]
        said += [whole for value in self.values for whole, _ in inside_of(value).values()]
        document = {"list": said, "text": json.dumps(said), "keys": {text: text for text in said}}
        packed = zlib.compress(json.dumps(document).encode())
        line = quote(self.values[0], safe="")
        return {
            "/json": lambda _: answer(200, json.dumps(document).encode(), *headers_with(said)),
            "/text": lambda _: answer(200, "\n".join(said).encode(), "Content-Type: text/plain"),
            "/packed": lambda _: answer(200, packed, "Content-Type: application/json", "Content-Encoding: deflate"),
            "/error": lambda _: answer(500, json.dumps(document).encode(), *headers_with(said), reason=said[0]),
            "/redirect": lambda _: answer(302, b"", f"Location: /json?back={line}"),
            "/away": lambda _: answer(302, b"", f"Location: http://127.0.0.2:{self.port}/json?stolen={line}"),
            "/broken": lambda _: f"HTTP/1.1 200 {line}\r\n{line}: {line}\r\nContent-Length: {line}\r\n\r\n".encode(),
            "/nothing": lambda _: f"{line}\r\n\r\n".encode(),
            "/v1/chat/completions": model_answer,
        }


def headers_with(said: list[str]) -> list[str]:
    sendable = [text for text in said if text.isprintable() and text.isascii()]
    return [f"X-Said-{number}: {text}" for number, text in enumerate(sendable)]


def answer(status: int, body: bytes, *headers: str, reason: str = "Said") -> bytes:
    kind = [] if any(header.startswith("Content-Type") for header in headers) else ["Content-Type: application/json"]
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Length: {len(body)}", "Connection: close", *kind, *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def model_answer(head: str) -> bytes:
    """A model that says the key it was called with, letter by letter."""
    key = re.search(r"\r\nauthorization: Bearer ([^\r]+)", head, re.IGNORECASE)
    words = f"Your key is {key[1] if key else '-'}, {base64.b64encode(key[1].encode() if key else b'-').decode()}."
    frame = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "parrot"}
    deltas = [{"role": "assistant", "content": letter} for letter in words]
    chunks = [{**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return answer(200, text.encode(), "Content-Type: text/event-stream")


@asynccontextmanager
async def parrot(*values: str) -> AsyncIterator[Parrot]:
    """A parrot on 127.0.0.1 and, on the same port, on 127.0.0.2."""
    made = Parrot([*values])
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    other = await asyncio.start_server(made.serve, "127.0.0.2", made.port)
    try:
        yield made
    finally:
        for each in (server, other):
            each.close()
            await each.wait_closed()
