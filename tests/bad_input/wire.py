"""HTTP/1.1 as bytes: requests go out as they are written, which no client library would allow."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for each, value in self.headers if each == name), "")

    def json(self) -> Any:
        return json.loads(self.body)


async def send(url: str, target: str, headers: list[str], body: bytes) -> Answer:
    """One request on a connection of its own, and its answer."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    lines = [f"{target} HTTP/1.1", f"Host: {place.netloc}", *headers, "", ""]
    try:
        writer.write("\r\n".join(lines).encode() + body)
        answer = await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    pairs = [(name.lower(), value.strip()) for name, _, value in (field.partition(":") for field in fields)]
    return Answer(int(status.split()[1]), pairs, _whole(pairs, rest))


def _whole(headers: list[tuple[str, str]], body: bytes) -> bytes:
    if ("transfer-encoding", "chunked") not in headers:
        return body
    whole, rest = b"", body
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        whole, rest = whole + rest[:length], rest[length + 2 :]
    return whole
