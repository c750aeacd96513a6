"""The API's description: security of each operation by the permission its route requires, events, problem bodies."""

from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from app.api.deps import Require
from app.api.v1.schemas.problem import Problem
from app.auth.permissions import Permission
from app.domain.events import StreamEvent

DESCRIPTION = """
Runs multi-step workflows, streams every step live and keeps a durable, auditable record of each run.

**Authorize** with the e-mail and password of a user (`stepstream up` prints those of the first one), or send an API
key as a bearer token. Every error is an RFC 9457 problem with a stable `code`; each code has a [page](/problems).

**Streams.** `GET /api/v1/executions/{id}/events` pages events, and streams them with `Accept: text/event-stream`.
WebSocket: `/api/v1/executions/{id}/stream?after=0`, by `Authorization` header, or in a browser with the subprotocols of
`POST /api/v1/stream-tickets`. The schema of every event is `StreamEvent`.
"""

SECURITY_SCHEMES = {
    "Password": {
        "type": "oauth2",
        "description": "Sign in with e-mail and password.",
        "flows": {
            "password": {
                "tokenUrl": "/api/v1/auth/token",
                "refreshUrl": "/api/v1/auth/refresh",
                "scopes": {},
            }
        },
    },
    "ApiKey": {"type": "http", "scheme": "bearer", "description": "An API key `sk_…` or an access token."},
}


def describe(app: FastAPI) -> None:
    """Give the app its OpenAPI document, built once on first use."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def required_permission(route: APIRoute) -> Permission | None:
    """The permission a route requires, None for a public one."""
    return _permission(route.dependant)


def _permission(dependant: Dependant) -> Permission | None:
    if isinstance(dependant.call, Require):
        return dependant.call.permission
    return next(filter(None, map(_permission, dependant.dependencies)), None)


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=app.openapi_tags
    )
    components = document.setdefault("components", {})
    components["securitySchemes"] = SECURITY_SCHEMES
    schemas = components.setdefault("schemas", {})
    events = TypeAdapter(StreamEvent).json_schema(ref_template="#/components/schemas/{model}")
    schemas |= events.pop("$defs")
    schemas["StreamEvent"] = events
    schemas.setdefault("Problem", Problem.model_json_schema(ref_template="#/components/schemas/{model}"))
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                _describe_operation(document["paths"][route.path_format][method.lower()], required_permission(route))
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    return document


def _describe_operation(operation: dict[str, Any], permission: Permission | None) -> None:
    if permission is not None:
        operation["security"] = [{"Password": []}, {"ApiKey": []}]
        operation["x-permission"] = permission.value
        operation["description"] = f"{operation.get('description', '')}\n\nPermission: `{permission.value}`".strip()
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for status, response in operation.get("responses", {}).items():
        if status.startswith(("4", "5")):
            content = response.pop("content", {})
            described = content.get("application/problem+json", {}) | problem
            response["content"] = {"application/problem+json": described}
