"""The index finds the route that FastAPI would have found, and FastAPI answers whatever it does not find."""

import pytest
from fastapi import Depends, FastAPI, Form, Response
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Match

from app.api.openapi import operations
from app.api.request import StrictRoute
from app.api.route_index import RouteIndex

ONLY_BY_FASTAPI = {"/api/v1/auth/token"}


def scope_of(method, path, **more):
    return {"type": "http", "method": method, "path": path, "root_path": "", "headers": [], **more}


def by_fastapi(app, scope):
    """The endpoint of the first route that matches, in FastAPI's order, and its parameters."""
    for context in iter_route_contexts(app.routes):
        if not isinstance(context.original_route, APIRoute) or scope["method"] not in context.methods:
            continue
        if found := context.path_regex.match(scope["path"]):
            return context.endpoint, found.groupdict()
    return None


async def test_the_index_and_fastapi_find_the_same(live):
    index = live.app.router.routes[0]
    assert isinstance(index, RouteIndex)
    paths = {operation.path for operation in operations(live.app)}
    values = ["exec_1", "metrics", "bulk", "a%20b", "\u00e4 \u2192"]
    tried = 0
    for path in sorted(paths):
        for value in values:
            filled = path
            while "{" in filled:
                filled = filled[: filled.index("{")] + value + filled[filled.index("}") + 1 :]
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
                match, found = index.matches(scope_of(method, filled))
                whole = by_fastapi(live.app, scope_of(method, filled))
                if match is Match.FULL:
                    assert (found["endpoint"], found["path_params"]) == whole, (method, filled)
                    tried += 1
                elif whole is not None:
                    assert not filled.startswith("/api/v1/") or filled in ONLY_BY_FASTAPI, (method, filled)
    assert tried > 150


async def test_what_is_no_request_for_a_known_route_is_not_the_indexs(live):
    index, path = live.app.router.routes[0], "/api/v1/executions"
    assert index.matches(scope_of("POST", path))[0] is Match.FULL
    assert index.matches(scope_of("POST", path) | {"type": "websocket"})[0] is Match.NONE
    assert index.matches(scope_of("PATCH", path))[0] is Match.NONE
    assert index.matches(scope_of("POST", path + "/"))[0] is Match.NONE
    assert index.matches(scope_of("GET", path + "/exec_1/exec_2"))[0] is Match.NONE
    assert index.matches(scope_of("POST", path, **{"fastapi.telemetry": object()}))[0] is Match.NONE


async def _endpoint() -> Response:
    return Response()


def _thread() -> None: ...


async def _yields():
    yield


async def _form(word: str = Form()) -> Response:
    return Response(word)


async def _told(response: Response) -> Response:
    return response


@pytest.mark.parametrize(
    ("endpoint", "dependencies"),
    [(_endpoint, [Depends(_thread)]), (_endpoint, [Depends(_yields)]), (_form, []), (_told, []), (_thread, [])],
)
def test_what_only_fastapi_can_call_is_left_to_it(endpoint, dependencies):
    app = FastAPI()
    app.router.route_class = StrictRoute
    app.add_api_route("/a", endpoint, dependencies=dependencies, response_model=None, methods=["POST"])
    assert RouteIndex(app.routes).matches(scope_of("POST", "/a"))[0] is Match.NONE
    app.add_api_route("/b", _endpoint, response_model=None, methods=["POST"], dependencies=[Depends(_endpoint)])
    assert RouteIndex(app.routes).matches(scope_of("POST", "/b"))[0] is Match.FULL
    assert isinstance(app.routes[-1], APIRoute)
