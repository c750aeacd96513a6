"""Headers of requests, and those that every answer has, whoever gives it."""

from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from app.auth.errors import Standing

RawHeaders = list[tuple[bytes, bytes]]

_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_API_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_PAGES_POLICY = (
    b"content-security-policy",
    (
        b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'"
    ),
)
_PAGES = ("/docs", "/redoc", "/problems")
_NO_STORE = (b"cache-control", b"no-store")
_TLS_ONLY = (b"strict-transport-security", b"max-age=31536000")


def add_headers(headers: RawHeaders, path: str, request_id: str, *, secure: bool = False) -> None:
    """Add them; what a route has set itself stays. `secure`: the client came by TLS."""
    present = {name for name, _ in headers}
    headers.append((b"x-request-id", request_id.encode()))
    wanted = [*_SECURITY, _PAGES_POLICY if path.startswith(_PAGES) else _API_POLICY]
    if path.startswith("/api/"):
        wanted.append(_NO_STORE)
    if secure:
        wanted.append(_TLS_ONLY)
    headers.extend(header for header in wanted if header[0] not in present)


def rate_headers(standing: Standing) -> dict[str, str]:
    """The RateLimit headers of the IETF's draft: the limit, and what is left of it."""
    name = standing.limit_name
    return {
        "ratelimit-policy": f'"{name}";q={standing.limit};w={standing.period}',
        "ratelimit": f'"{name}";r={standing.remaining};t={standing.reset}',
    }


class RequestHeaders(Headers):
    """The headers of one request by name: they are asked for a dozen times, and looked through once."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope=scope)
        self._by_name: dict[str, list[str]] = {}
        for name, value in self._list:
            self._by_name.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))

    def __getitem__(self, name: str) -> str:
        return self._by_name[name.lower()][0]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._by_name

    def get(self, name: str, default: Any = None) -> Any:
        """The first of this name."""
        found = self._by_name.get(name.lower())
        return default if found is None else found[0]

    def getlist(self, name: str) -> list[str]:
        """All of this name, in order."""
        return list(self._by_name.get(name.lower(), ()))


def headers_of(scope: Scope) -> Headers:
    """The headers of a request, which the edge has looked through."""
    found: Headers | None = scope.get("state", {}).get("headers")
    return Headers(scope=scope) if found is None else found
