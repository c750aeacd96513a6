"""Reading bodies strictly. What cannot be read is noted, not raised, so that a caller is authenticated first."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from app.domain.errors import StepstreamError
from app.domain.jsontext import NotJson, decode

MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a body that is no JSON; whatever validates it refuses it, and the answer says why."""

    code: str
    detail: str


class StrictRequest(Request):
    """A request whose JSON is strict: no NaN, no duplicate meanings, no bytes behind the value, bounded depth."""

    unreadable: Unreadable | None = None
    """What is wrong with the body, once it has been read."""

    async def json(self) -> Any:
        body = await self.body()
        try:
            value = decode(body)
        except NotJson as error:
            return self._refuse(f"The body is not JSON: {error}")
        if _too_deep(value, MAX_DEPTH):
            return self._refuse(f"The body is nested more than {MAX_DEPTH} levels deep")
        return value

    def _refuse(self, detail: str) -> Unreadable:
        self.unreadable = Unreadable("invalid_json", detail)
        return self.unreadable


def demand_readable(request: Request) -> None:
    """Raise if the body was read and is no JSON.

    Validation alone does not find it: to a model in which everything may be left out, any object is one that leaves
    everything out.
    """
    if isinstance(request, StrictRequest) and request.unreadable is not None:
        raise StepstreamError(request.unreadable.detail, code=request.unreadable.code)


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
