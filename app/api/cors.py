"""CORS for the configured origins."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from app.api.headers import headers_of


class Cors(CORSMiddleware):
    """To pages of any other origin this is a server without CORS: their preflight gets what any OPTIONS gets."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = headers_of(scope).get("origin") if scope["type"] == "http" else None
        # What nobody may store needs no `Vary: Origin` either.
        is_own = origin is None and scope["path"].startswith("/api/")
        if is_own or (origin is not None and not self.is_allowed_origin(origin)):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
