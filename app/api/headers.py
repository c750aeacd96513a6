"""Headers that every answer has, whoever gives it."""

from starlette.datastructures import MutableHeaders

from app.auth.errors import Standing

_SECURITY = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_PAGES_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'"
)
_PAGES = ("/docs", "/redoc", "/problems")
_YEAR = 365 * 86_400


def add_headers(headers: MutableHeaders, path: str, request_id: str, *, secure: bool = False) -> None:
    """Add them; what a route has set itself stays. `secure`: the client came by TLS."""
    headers["x-request-id"] = request_id
    for name, value in _SECURITY.items():
        headers.setdefault(name, value)
    if path.startswith("/api/"):
        headers.setdefault("cache-control", "no-store")
    elif path.startswith(_PAGES):
        headers["content-security-policy"] = _PAGES_POLICY
    if secure:
        headers.setdefault("strict-transport-security", f"max-age={_YEAR}")


def rate_headers(standing: Standing) -> dict[str, str]:
    """The RateLimit headers of the IETF's draft: the limit, and what is left of it."""
    name = standing.limit_name
    return {
        "RateLimit-Policy": f'"{name}";q={standing.limit};w={standing.period}',
        "RateLimit": f'"{name}";r={standing.remaining};t={standing.reset}',
    }
