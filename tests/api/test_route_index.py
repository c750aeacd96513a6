"""The index finds the route that FastAPI would have found, and FastAPI answers whatever it does not find."""

import re

import pytest
from fastapi import Depends, FastAPI, Form, Response
from fastapi.routing import APIRoute, iter_route_contexts

from app.api.openapi import operations
from app.api.request import StrictRoute
from app.api.route_index import RouteIndex

ONLY_BY_FASTAPI = {"/api/v1/auth/token"}


def scope_of(method, path, **more):
    return {"type": "http", "method": method, "path": path, "root_path": "", "headers": []} | more


def by_fastapi(app, scope):
    """The endpoint of the first route that matches, in FastAPI's order, and its parameters."""
    for context in iter_route_contexts(app.routes):
        if not isinstance(context.original_route, APIRoute) or scope["method"] not in context.methods:
            continue
        if found := context.path_regex.match(scope["path"]):
            return context.endpoint, found.groupdict()
    return None


def found(index, method, path, **more):
    """The endpoint that the index finds, and its parameters."""
    scope = scope_of(method, path, **more)
    route = index.find(scope)
    return None if route is None else (route.endpoint, scope["path_params"])


async def test_the_index_and_fastapi_find_the_same(live):
    index = RouteIndex(live.app.router, live.app.routes)
    paths = {operation.path for operation in operations(live.app)}
    tried = 0
    for path in sorted(paths):
        for value in ("exec_1", "metrics", "bulk", "a%20b", "ä →"):
            filled = re.sub("{[a-z_]+}", value, path)
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
                mine, whole = found(index, method, filled), by_fastapi(live.app, scope_of(method, filled))
                if mine is not None:
                    assert mine == whole, (method, filled)
                    tried += 1
                elif whole is not None:
                    assert not filled.startswith("/api/v1/") or filled in ONLY_BY_FASTAPI, (method, filled)
    assert tried > 150


async def test_what_is_no_request_for_a_known_route_is_not_the_indexs(live):
    index, path = RouteIndex(live.app.router, live.app.routes), "/api/v1/executions"
    assert found(index, "POST", path) is not None
    assert found(index, "POST", path, type="websocket") is None
    assert found(index, "PATCH", path) is None
    assert found(index, "POST", path + "/") is None
    assert found(index, "GET", path + "/exec_1/exec_2") is None
    assert found(index, "POST", path, **{"fastapi.telemetry": object()}) is None


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
    assert found(RouteIndex(app.router, app.routes), "POST", "/a") is None
    app.add_api_route("/b", _endpoint, response_model=None, methods=["POST"], dependencies=[Depends(_endpoint)])
    assert found(RouteIndex(app.router, app.routes), "POST", "/b") is not None
