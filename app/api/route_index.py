"""Finding the route of a request by its method and path in one look, where FastAPI tries them one after the other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi.routing import iter_route_contexts
from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import answer_to
from app.api.request import StrictRoute


@dataclass(frozen=True, slots=True)
class _Place:
    """A route at its whole path."""

    route: StrictRoute
    pattern: re.Pattern[str]


class RouteIndex:
    """Wraps the app, and answers requests for the routes that it knows.

    What it does not find, such as a path with another method, FastAPI answers; all of it where somebody has set up
    FastAPI's telemetry, which tells of steps that are not taken here.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._exact: dict[tuple[str, str], _Place] = {}
        self._patterns: dict[tuple[str, int], list[_Place]] = {}
        for context in iter_route_contexts(routes):
            route = context.original_route
            if type(route) is StrictRoute and route.call is not None:
                place = _Place(route, context.path_regex)
                for method in context.methods or ():
                    self._enter(method, str(context.path_format), place)

    def _enter(self, method: str, path: str, place: _Place) -> None:
        if "{" in path:
            self._patterns.setdefault((method, path.count("/")), []).append(place)
        else:
            self._exact.setdefault((method, path), place)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self.find(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await route.answer(scope, receive)
            await response(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - raised again if there is no answer to it
            await answer_to(Request(scope), error)(scope, receive, send)

    def find(self, scope: Scope) -> StrictRoute | None:
        """The route of a request; the scope then has the parameters in its path."""
        if scope["type"] != "http" or "fastapi.telemetry" in scope:
            return None
        method, path = scope["method"], get_route_path(scope)
        place = self._exact.get((method, path))
        if place is not None:
            scope["path_params"] = {}
            return place.route
        for place in self._patterns.get((method, path.count("/")), ()):
            if found := place.pattern.match(path):
                scope["path_params"] = found.groupdict()
                return place.route
        return None
