"""The API's description: security of each operation by the permission its route requires, events, problem bodies."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import TypeAdapter

from app.api.deps import Public, Require
from app.api.documents import definition_schemas
from app.api.v1.examples import BODY_EXAMPLES, EXAMPLES
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
        "flows": {"password": {"tokenUrl": "/api/v1/auth/token", "scopes": {}}},
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


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. It is `protected`, perhaps by a permission, or `public` says why it is not."""

    path: str
    method: str
    operation_id: str | None
    in_schema: bool
    protected: bool
    permission: Permission | None
    public: str | None
    pattern: re.Pattern[str]


def operations(app: FastAPI) -> list[Operation]:
    """Every operation that the app serves by routers of its own."""
    return [
        Operation(
            path=context.path_format,
            method=method,
            operation_id=context.operation_id,
            in_schema=context.include_in_schema,
            protected=any(isinstance(call, Require) for call in calls_of(context.dependant)),
            permission=next(
                (call.permission for call in calls_of(context.dependant) if isinstance(call, Require)), None
            ),
            public=next((call.reason for call in calls_of(context.dependant) if isinstance(call, Public)), None),
            pattern=context.path_regex,
        )
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, APIRoute) and context.path_format is not None
        for method in sorted(context.methods or ())
    ]


def calls_of(dependant: Dependant) -> Iterator[Any]:
    """Whatever a route depends on, directly or not."""
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from calls_of(dependency)


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
    schemas |= definition_schemas()
    schemas.setdefault("Problem", Problem.model_json_schema(ref_template="#/components/schemas/{model}"))
    for operation in operations(app):
        if operation.in_schema:
            described = document["paths"][operation.path][operation.method.lower()]
            _describe_operation(described, operation)
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    return document


def _describe_operation(described: dict[str, Any], operation: Operation) -> None:
    if operation.protected:
        described["security"] = [{scheme: []} for scheme in SECURITY_SCHEMES]
    if operation.permission is not None:
        described["x-permission"] = operation.permission.value
        described["description"] = f"{described.get('description', '')}\n\nPermission: `{operation.permission}`".strip()
    for status, example in EXAMPLES.get(operation.operation_id or "", {}).items():
        described["responses"][status]["content"]["application/json"]["example"] = example
    for media, example in BODY_EXAMPLES.get(operation.operation_id or "", {}).items():
        described["requestBody"]["content"][media]["example"] = example
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for status, response in described.get("responses", {}).items():
        if status.startswith(("4", "5")):
            content = response.pop("content", {})
            described = content.get("application/problem+json", {}) | problem
            response["content"] = {"application/problem+json": described}
