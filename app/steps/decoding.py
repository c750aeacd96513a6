"""Reads a body from a server that may be hostile: bytes are counted as they come and as they decode."""

import zlib
from typing import Protocol

from app.domain.errors import StepError

_CHUNK = 65_536
_GZIP, _RAW_DEFLATE = 16 + zlib.MAX_WBITS, -zlib.MAX_WBITS


class _Inflater(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class BodyReader:
    """Gathers the chunks of one body; raises StepError as soon as it is over `limit`, raw or decoded, or not decodable.

    `encoding` is the Content-Encoding; `named` names the request in messages.
    """

    def __init__(self, encoding: str, limit: int, named: str) -> None:
        self._limit = limit
        self._named = named
        self._encoding = encoding.strip().lower()
        self._raw = 0
        self._decoded = bytearray()
        self._inflater: _Inflater | None = None
        if self._encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise self._invalid("has a Content-Encoding that was not asked for and is not supported")

    def expect(self, content_length: str) -> None:
        """Refuse a body that announces itself as too large, before reading it."""
        if content_length.isdecimal() and int(content_length[:20]) > self._limit:
            raise self._too_large()

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk as it came."""
        if not chunk:
            return
        self._raw += len(chunk)
        if self._raw > self._limit:
            raise self._too_large()
        if self._encoding in ("", "identity"):
            self._decoded += chunk
            return
        try:
            self._inflate(chunk)
        except zlib.error:
            raise self._invalid("cannot be decompressed") from None

    def finish(self) -> bytes:
        """The decoded body."""
        if self._inflater is not None and not self._inflater.eof:
            raise self._invalid("ends in the middle of its compressed body")
        return bytes(self._decoded)

    def _inflate(self, data: bytes) -> None:
        if self._inflater is None:
            self._inflater = zlib.decompressobj(self._window(data))
        inflater = self._inflater
        while True:
            piece = inflater.decompress(data, _CHUNK)
            self._decoded += piece
            if len(self._decoded) > self._limit:
                raise self._too_large()
            if inflater.unused_data:
                raise self._invalid("has more after the end of its compressed body")
            data = inflater.unconsumed_tail
            # A full piece without input left may be followed by more that the decoder holds back.
            if inflater.eof or (not data and len(piece) < _CHUNK):
                return

    def _window(self, data: bytes) -> int:
        if self._encoding != "deflate":
            return _GZIP
        # Some servers send `deflate` without the zlib header that the standard asks for; its low four bits are 8.
        return zlib.MAX_WBITS if data[0] & 0x0F == zlib.DEFLATED else _RAW_DEFLATE

    def _too_large(self) -> StepError:
        detail = f"The answer to {self._named} is larger than {self._limit} bytes; `max_bytes` sets the limit"
        return StepError(detail, code="response_too_large", retryable=False)

    def _invalid(self, what: str) -> StepError:
        return StepError(f"The answer to {self._named} {what}", code="invalid_response")
