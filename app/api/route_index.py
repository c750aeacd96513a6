"""Finding the route of a request by its method and path in one look, where FastAPI tries them one after the other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.routing import iter_route_contexts
from starlette._utils import get_route_path
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from app.api.request import StrictRoute


@dataclass(frozen=True, slots=True)
class _Place:
    """A route at its whole path."""

    route: StrictRoute
    pattern: re.Pattern[str]
    endpoint: Any


class RouteIndex(BaseRoute):
    """Stands before the routes that it knows. What it does not find, such as a path with another method, they answer.

    FastAPI's telemetry, where somebody has set it up, tells of steps that are not taken here: then it finds nothing.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._exact: dict[tuple[str, str], _Place] = {}
        self._patterns: dict[tuple[str, int], list[_Place]] = {}
        for context in iter_route_contexts(routes):
            route = context.original_route
            if type(route) is StrictRoute and route.call is not None:
                place = _Place(route, context.path_regex, context.endpoint)
                for method in context.methods or ():
                    self._enter(method, str(context.path_format), place)

    def _enter(self, method: str, path: str, place: _Place) -> None:
        if "{" in path:
            self._patterns.setdefault((method, path.count("/")), []).append(place)
        else:
            self._exact.setdefault((method, path), place)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """The route, if there is one of exactly this method and path."""
        if scope["type"] != "http" or "fastapi.telemetry" in scope:
            return Match.NONE, {}
        method, path = scope["method"], get_route_path(scope)
        place = self._exact.get((method, path))
        if place is not None:
            return _found(place, {})
        for place in self._patterns.get((method, path.count("/")), ()):
            if found := place.pattern.match(path):
                return _found(place, found.groupdict())
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the route that was found."""
        route: StrictRoute = scope["route"]
        response = await route.answer(scope, receive)
        await response(scope, receive, send)


def _found(place: _Place, path_params: dict[str, str]) -> tuple[Match, Scope]:
    return Match.FULL, {"endpoint": place.endpoint, "path_params": path_params, "route": place.route}
