"""Reading bodies strictly. What cannot be read is noted, not raised, so that a caller is authenticated first."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from app.domain.jsontext import NotJson, decode

MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a body that is no JSON; whatever validates it refuses it, and the answer says why."""

    code: str
    detail: str


class StrictRequest(Request):
    """A request whose JSON is strict: no NaN, no duplicate meanings, no bytes behind the value, bounded depth."""

    async def json(self) -> Any:
        body = await self.body()
        try:
            value = decode(body)
        except NotJson as error:
            return Unreadable("invalid_json", f"The body is not JSON: {error}")
        if _too_deep(value, MAX_DEPTH):
            return Unreadable("invalid_json", f"The body is nested more than {MAX_DEPTH} levels deep")
        return value


def _too_deep(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        return levels == 0 or any(_too_deep(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return levels == 0 or any(_too_deep(item, levels - 1) for item in value)
    return False


class StrictRoute(APIRoute):
    """A route that reads its body strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict
