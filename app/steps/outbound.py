"""The one door for HTTP out of steps: no request leaves the service but through here.

Every new connection resolves its host once, checks every answer and connects to a checked address, so a name that
changes its mind (DNS rebinding) gains nothing; redirects pass the same door. Proxies, `.netrc` and certificates of
the environment are ignored. One deadline holds for everything, and bytes are counted raw and decoded, so that a
hostile server can cost no more than the step's own limits. Failures are StepErrors that name no query and no secret.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import TypeAlias

import httpcore
import httpx

from app.domain.control import HOPS_HEADER
from app.domain.errors import StepError
from app.domain.scrubbing import forms
from app.domain.secrets import OpenedSecret, host_allowed, not_for
from app.steps.addresses import NOT_PUBLIC, Address, EgressRule, place, port_of, target_of, unmapped
from app.steps.decoding import BodyReader

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives all addresses of a host name; raises OSError when there are none."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_REDIRECTS = 3

_CONNECT_TIMEOUT = 10.0
_MAX_CONNECTIONS = 256
_KEEPALIVE = 5.0
_LOOKUPS = 32
# A redirect to another origin takes along only what describes the request, never what may identify the caller.
_KEPT_ACROSS_ORIGINS = frozenset(
    {"accept", "accept-encoding", "accept-language", "content-type", "user-agent", HOPS_HEADER}
)
_BODY_HEADERS = frozenset({"content-type", "content-length", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """A request to make. `timeout` in seconds holds for all of it, redirects and body included; `max_bytes` for the
    body, as received and as decoded. `secrets` are in it, and go to the hosts they are for only."""

    method: str
    url: str
    headers: httpx.Headers
    content: bytes
    timeout: float
    max_bytes: int
    follow_redirects: bool = True
    secrets: tuple[OpenedSecret, ...] = ()

    def carries(self, secret: OpenedSecret) -> bool:
        """Whether the value is anywhere in it, as this service or a server that redirects may write it."""
        parts = [self.url.encode(), *(value for _, value in self.headers.raw), self.content]
        return any(form.encode("utf-8", "replace") in part for form in forms(secret.value) for part in parts)


@dataclass(frozen=True, slots=True)
class OutboundResponse:
    """An answer with its whole decoded body. `url` is where it came from, after redirects."""

    status: int
    headers: httpx.Headers
    body: bytes
    url: httpx.URL


_looking_up = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="stepstream-names")


async def system_resolver(host: str, port: int) -> list[str]:
    """All addresses of a name, as the machine's resolver gives them.

    A resolver that hangs holds a thread of these, and not one of the event loop's, which the database's name needs too.
    """
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_looking_up, ask)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Outbound:
    """Makes requests to where `rule` allows. `own_port` is this service's own: its addresses are refused there."""

    def __init__(self, rule: EgressRule, *, resolver: Resolver = system_resolver, own_port: int | None = None) -> None:
        self.rule = rule
        self._backend = _CheckedBackend(rule, resolver, own_port)
        self._pools: dict[bool, httpcore.AsyncConnectionPool] = {}

    async def send(self, request: OutboundRequest) -> OutboundResponse:
        """The answer, whatever its status; raises StepError when there is none."""
        try:
            async with asyncio.timeout(request.timeout):
                return await self._follow(request)
        except TimeoutError:
            detail = f"{_named(request)} got no complete answer within {request.timeout:g} s"
            raise StepError(detail, code="request_timeout") from None

    async def aclose(self) -> None:
        """Close the idle connections."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()

    async def _follow(self, request: OutboundRequest) -> OutboundResponse:
        for hop in range(MAX_REDIRECTS + 1):
            url = self._checked_url(request)
            _check_secrets(request, url, redirected=hop > 0)
            async with self._exchange(request, url) as answer:
                headers = httpx.Headers(answer.headers)
                target = headers.get("location") if _redirects(answer.status) else None
                if target is None or not request.follow_redirects:
                    body = await self._read(request, answer, headers)
                    return OutboundResponse(answer.status, headers, body, url)
            request = _redirected(request, url, target, answer.status)
        raise StepError(
            f"{_named(request)} was redirected more than {MAX_REDIRECTS} times",
            code="too_many_redirects",
            retryable=False,
        )

    def _checked_url(self, request: OutboundRequest) -> httpx.URL:
        if refusal := self.rule.refusal(request.url):
            code = "invalid_url" if refusal.malformed else "ssrf_blocked"
            raise StepError(f"The URL may not be called: {refusal.reason}", code=code, retryable=False)
        return httpx.URL(request.url)

    @asynccontextmanager
    async def _exchange(self, request: OutboundRequest, url: httpx.URL) -> AsyncIterator[httpcore.Response]:
        built = httpx.Request(request.method, url, headers=request.headers, content=request.content or None)
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        waits = {"connect": _CONNECT_TIMEOUT, "pool": request.timeout}
        pool = self._pool(keep_alive=request.method in SAFE_METHODS)
        try:
            async with pool.stream(
                request.method,
                target,
                headers=built.headers.raw,
                content=request.content or None,
                extensions={"timeout": waits},
            ) as answer:
                yield answer
        except _TRANSPORT_ERRORS as error:
            raise _failure(error, _named(request)) from None

    def _pool(self, *, keep_alive: bool) -> httpcore.AsyncConnectionPool:
        # A request with an effect never goes over a used connection: should the other side be closing it just then,
        # nobody could tell whether the effect took place.
        if keep_alive not in self._pools:
            self._pools[keep_alive] = httpcore.AsyncConnectionPool(
                ssl_context=httpx.create_ssl_context(trust_env=False),
                max_connections=_MAX_CONNECTIONS,
                max_keepalive_connections=32 if keep_alive else 0,
                keepalive_expiry=_KEEPALIVE,
                network_backend=self._backend,
            )
        return self._pools[keep_alive]

    async def _read(self, request: OutboundRequest, answer: httpcore.Response, headers: httpx.Headers) -> bytes:
        if request.method == "HEAD" or answer.status in (204, 304):
            return b""
        reader = BodyReader(headers.get("content-encoding", ""), request.max_bytes, _named(request))
        reader.expect(headers.get("content-length", ""))
        async for chunk in answer.aiter_stream():
            reader.feed(chunk)
        return reader.finish()


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections, to checked addresses only."""

    def __init__(self, rule: EgressRule, resolver: Resolver, own_port: int | None) -> None:
        self._rule = rule
        self._resolver = resolver
        self._own_port = own_port
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is the library's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in await self._checked_addresses(host, port):
            try:
                return await self._network.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,  # noqa: ARG002 - the signature is the library's
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        raise StepError("Steps may not use unix sockets", code="ssrf_blocked", retryable=False)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _checked_addresses(self, host: str, port: int) -> list[Address]:
        try:
            answers = [unmapped(ipaddress.ip_address(text)) for text in await self._resolver(host, port)]
        except (OSError, UnicodeError):
            raise StepError(f"The host name {host} does not resolve", code="connect_failed") from None
        except ValueError:
            raise _blocked(host) from None
        # All or none: a name that mixes public and private answers is an attack or a mistake, never a choice.
        if port not in self._rule.ports or not all(self._rule.allows(address) for address in answers):
            raise _blocked(host)
        if port == self._own_port and any(map(is_own, answers)):
            raise StepError(f"{host}:{port} is this service itself", code="ssrf_blocked", retryable=False)
        return answers


def is_own(address: Address) -> bool:
    """Whether an address is one of this machine's."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _blocked(host: str) -> StepError:
    return StepError(f"{host} may not be called: {NOT_PUBLIC}", code="ssrf_blocked", retryable=False)


def _check_secrets(request: OutboundRequest, url: httpx.URL, *, redirected: bool) -> None:
    """Raise StepError unless all secrets in the request are for where it goes; a redirect may have left some behind."""
    host, port = target_of(url)
    for secret in request.secrets:
        if not host_allowed(secret.allowed_hosts, host, port) and (not redirected or request.carries(secret)):
            message = not_for(secret.name, host, secret.allowed_hosts)
            raise StepError(message, code="secret_host_not_allowed", retryable=False)


def _named(request: OutboundRequest) -> str:
    return f"{request.method} {place(httpx.URL(request.url))}"


def _redirects(status: int) -> bool:
    return status in (
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    )


def _redirected(request: OutboundRequest, url: httpx.URL, location: str, status: int) -> OutboundRequest:
    """The request that follows a redirect, with what browsers and RFC 9110 agree on."""
    try:
        target = url.join(location).copy_with(fragment=None)
    except (httpx.InvalidURL, UnicodeError, ValueError):
        detail = f"{_named(request)} was redirected to something that is not a URL"
        raise StepError(detail, code="invalid_url", retryable=False) from None
    if url.scheme == "https" and target.scheme == "http":
        detail = f"{_named(request)} was redirected from https to http, which would send the request in the clear"
        raise StepError(detail, code="ssrf_blocked", retryable=False)
    headers, method, content = request.headers, request.method, request.content
    if (target.scheme, target.host, port_of(target)) != (url.scheme, url.host, port_of(url)):
        headers = _only(headers, _KEPT_ACROSS_ORIGINS.__contains__)
    if (status == HTTPStatus.SEE_OTHER and method != "HEAD") or (status in (301, 302) and method == "POST"):
        headers = _only(headers, lambda name: name not in _BODY_HEADERS)
        method, content = "GET", b""
    return replace(request, method=method, url=str(target), headers=headers, content=content)


def _only(headers: httpx.Headers, keep: Callable[[str], bool]) -> httpx.Headers:
    return httpx.Headers([(name, value) for name, value in headers.raw if keep(name.decode("ascii").lower())])


_TRANSPORT_ERRORS = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)


def _failure(error: Exception, named: str) -> StepError:
    """A failed exchange in the words of the step."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        detail = f"{named}: the certificate is not valid ({cause.verify_message})"
        return StepError(detail, code="tls_failed", retryable=False)
    if isinstance(cause, ssl.SSLError):
        return StepError(f"{named}: TLS failed ({cause.reason or 'no reason given'})", code="tls_failed")
    match error:
        case httpcore.ConnectTimeout():
            return StepError(f"{named}: no connection within {_CONNECT_TIMEOUT:g} s", code="connect_failed")
        case httpcore.ConnectError():
            return StepError(f"{named}: the connection was refused or failed", code="connect_failed")
        case httpcore.TimeoutException():
            return StepError(f"{named}: no connection became free in time", code="request_timeout")
        case httpcore.NetworkError():
            return StepError(f"{named}: the connection broke before the answer was complete", code="connection_lost")
        case httpcore.LocalProtocolError():
            return StepError(f"{named}: the request cannot be sent as HTTP", code="invalid_config", retryable=False)
        case _:
            return StepError(f"{named}: the answer is not valid HTTP, or was cut off", code="invalid_response")
