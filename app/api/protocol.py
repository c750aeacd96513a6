"""HTTP/1.1 as this service speaks it: uvicorn's httptools protocol with time limits, size limits and strict heads.

What is refused here never reaches the app: it is no request that can be read, or its sender is too slow, too wordy or
one too many. Every refusal is a problem like any other, behind which the connection closes. It guards what
`stepstream serve` and `up` serve; another server in front of the app brings its own limits.

A connection that waits for its client stands in the lobby. When there is no room for a newcomer, who has waited longest
leaves: silent clients, however many, keep nobody out.
"""

import re
from asyncio import TimerHandle, Transport
from dataclasses import dataclass
from typing import Any, Literal

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app import clock
from app.api.headers import add_headers
from app.api.responses import problem

MAX_URL = 8 << 10
MAX_HEAD = 32 << 10
MAX_HEADERS = 100
MAX_UPGRADE_LINE = 8_000
"""The WebSocket library reads a handshake again, line by line, and takes none above 8 KiB."""
LINGER_SECONDS = 1.0
"""A refused client may still be sending; closing at once would reset the connection before it has read why."""

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_TARGET = re.compile(rb"/|https?://[^/?#@]+/", re.IGNORECASE)
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ \S+ HTTP/1\.[01]\r\n")
_VERSIONS = ("1.1", "1.0")
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

log = structlog.get_logger("access")

Awaited = Literal["head", "body"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds for a whole head and a whole body, host names that are served (none: any), connections, bytes.

    `max_bytes` bounds what all unfinished bodies together may hold in memory.
    """

    head_seconds: float = 10.0
    body_seconds: float = 30.0
    hosts: frozenset[str] = frozenset()
    max_connections: int = 10_000
    max_bytes: int = 64 << 20


class Refusal(Exception):
    """The request is not looked at any further."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Lobby:
    """The connections of one server that wait for their clients, who has waited longest first."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0
        self._waiting: dict[GuardedProtocol, None] = {}

    def enter(self, connection: "GuardedProtocol") -> None:
        """From now on it waits for its client."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = None

    def leave(self, connection: "GuardedProtocol") -> None:
        """It has a whole request, or has ended."""
        self._waiting.pop(connection, None)

    def make_room(self, connections: int) -> bool:
        """Whether one more connection can be served; ends the one that has waited longest where that helps."""
        if connections <= self.limits.max_connections:
            return True
        longest = next(iter(self._waiting), None)
        if longest is None:
            return False
        longest.end_wait()
        longest.transport.close()
        return True

    def hold(self, size: int) -> None:
        """Unfinished bodies have grown by so many bytes; the oldest of them make room when they are too many."""
        self.held += size
        while self.held > self.limits.max_bytes:
            oldest = next((connection for connection in self._waiting if connection.held), None)
            if oldest is None:
                return
            oldest.end_wait()


class GuardedProtocol(HttpToolsProtocol):
    """One connection. uvicorn makes it; `lobby` is what the connections of a server share."""

    def __init__(self, *arguments: Any, lobby: Lobby, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.held = 0
        self._lobby = lobby
        self._limits = lobby.limits
        self._awaited: Awaited | None = "head"
        self._timed: Awaited | None = None
        self._deadline: TimerHandle | None = None
        self._progressless = 0
        self._spoken = False
        self._hosts: list[bytes] | None = None
        self._deaf = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._lobby.make_room(len(self.connections)):
            self._refuse(Refusal("overloaded", "This server has as many connections as it can serve"))
            transport.close()
            return
        self._lobby.enter(self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lobby.leave(self)
        self._release()
        self._stop_deadline()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._spoken = True
        self._progressless += len(data)
        try:
            self.parser.feed_data(data)
            if self._progressless > MAX_HEAD and self._awaited is not None:
                raise _headers_too_large()
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except (httptools.HttpParserError, Refusal) as error:
            self._refuse(_refusal(error, data))
        else:
            self._watch()

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        self._awaited = "head"
        self._lobby.enter(self)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL:
            raise Refusal("uri_too_long", f"The request target has more than {MAX_URL} bytes")

    def on_headers_complete(self) -> None:
        self._progressless = 0
        self._check_head()
        super().on_headers_complete()
        if self.parser.should_upgrade() and self._should_upgrade():
            self._check_handshake()
            return
        self._awaited = "body"
        # Trailers come through the same callback and would join the headers of a request that is under way.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._progressless = 0
        super().on_body(body)
        self.held += len(body)
        self._lobby.hold(len(body))

    def on_message_complete(self) -> None:
        self._awaited = None
        self._progressless = 0
        self._lobby.leave(self)
        self._release()
        self._stop_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._awaited is None:
            self._lobby.enter(self)
        super().on_response_complete()

    def end_wait(self) -> None:
        """The client has taken too long, or must make room for others."""
        self._lobby.leave(self)
        self._release()
        if not self._spoken or self._awaited is None:
            self.transport.close()
            return
        self._refuse(Refusal("request_timeout", f"The request's {self._awaited} did not arrive in time"))

    def _watch(self) -> None:
        """While a part of a request is awaited, its deadline runs."""
        if self._timed is self._awaited:
            return
        self._stop_deadline()
        self._timed = self._awaited
        seconds = self._limits.head_seconds if self._awaited == "head" else self._limits.body_seconds
        self._deadline = self.loop.call_later(seconds, self.end_wait)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._timed = None

    def _release(self) -> None:
        self._lobby.held -= self.held
        self.held = 0

    def _check_head(self) -> None:
        if len(self.headers) > MAX_HEADERS:
            raise Refusal("headers_too_large", f"The request has more than {MAX_HEADERS} header fields")
        size, hosts, coding = len(self.url), [], b"chunked"
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts.append(value)
            elif name == b"transfer-encoding":
                coding = value.lower()
        if size > MAX_HEAD:
            raise _headers_too_large()
        if self.parser.get_http_version() not in _VERSIONS or coding != b"chunked":
            raise _unreadable()
        if hosts != self._hosts:
            self._check_host(hosts)
        if self.parser.get_method() == b"CONNECT":
            raise _no_such_method()
        if not _TARGET.match(self.url):
            raise Refusal("invalid_path", "The request target is neither a path nor an http URL with one")

    def _check_host(self, hosts: list[bytes]) -> None:
        found = _HOST.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
        if found is None:
            raise Refusal("invalid_host", "Exactly one Host header, of a name or an address and perhaps a port, is due")
        if self._limits.hosts and found["name"].lower() not in self._limits.hosts:
            raise Refusal("invalid_host", "This host is not served here; STEPSTREAM_ALLOWED_HOSTS lists those that are")
        self._hosts = hosts

    def _check_handshake(self) -> None:
        if len(self.url) > MAX_UPGRADE_LINE:
            raise Refusal("uri_too_long", f"The target of a handshake has more than {MAX_UPGRADE_LINE} bytes")
        if any(len(name) + len(value) > MAX_UPGRADE_LINE for name, value in self.headers):
            raise Refusal("headers_too_large", f"A header of a handshake has more than {MAX_UPGRADE_LINE} bytes")

    def _upgrade(self) -> None:
        self._lobby.leave(self)
        self._stop_deadline()
        if self._should_upgrade():
            self.handle_websocket_upgrade()
            return
        # Another protocol is not offered; the request is answered, but what follows it cannot be read as HTTP.
        self._deaf = True
        self._close_behind_answers()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with a problem and close; answers still owed to earlier requests come first, and alone."""
        self._deaf = True
        self._lobby.leave(self)
        self._release()
        self._stop_deadline()
        self._unset_keepalive_if_required()
        unfinished = self._awaited == "body" and self.cycle is not None
        log.debug("request_refused", code=refusal.code, reason=refusal.detail, client=self.client)
        if self.transport.is_closing():
            return
        if unfinished and not self.pipeline and not self.cycle.response_started:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif unfinished:
            self.transport.close()
            return
        elif self._close_behind_answers():
            return
        self.transport.write(self._problem(refusal))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _close_behind_answers(self) -> bool:
        """Close once everything that was asked is answered; False if nothing is owed."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def _problem(self, refusal: Refusal) -> bytes:
        request_id = clock.new_id("req")
        answer = problem(refusal.code, refusal.detail, instance="", request_id=request_id)
        headers = [*self.server_state.default_headers, *answer.raw_headers, (b"connection", b"close")]
        add_headers(headers, "/api/", request_id)
        if refusal.code == "method_not_allowed":
            headers.append((b"allow", _METHODS))
        elif refusal.code == "overloaded":
            headers.append((b"retry-after", b"1"))
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return STATUS_LINE[answer.status_code] + lines + b"\r\n" + bytes(answer.body)


def _headers_too_large() -> Refusal:
    return Refusal("headers_too_large", f"The request's head has more than {MAX_HEAD} bytes")


def _no_such_method() -> Refusal:
    return Refusal("method_not_allowed", "There is no such method here")


def _unreadable() -> Refusal:
    return Refusal("invalid_request", "This is not a valid HTTP/1.1 request")


def _refusal(error: Exception, data: bytes) -> Refusal:
    """What to say of what the parser, or a callback under it, did not take."""
    reason = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
    match reason:
        case Refusal():
            return reason
        case httptools.HttpParserInvalidURLError() | UnicodeDecodeError():
            return Refusal("invalid_path", "The request target is not a valid URL")
        case httptools.HttpParserInvalidMethodError() if _REQUEST_LINE.match(data):
            return _no_such_method()
        case httptools.HttpParserError():
            return _unreadable()
    raise error
