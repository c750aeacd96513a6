"""Secrets: make, list, read what is known of them, replace, delete."""

from typing import Annotated, Any

from fastapi import Body, Depends
from starlette.requests import Request
from starlette.responses import Response

from app.api import routing
from app.api.deps import Require, ServicesDep
from app.api.pagination import Cursor, Limit, page_answer
from app.api.responses import Json
from app.api.routing import problems
from app.api.v1.schemas.secrets import CreateSecret, Secret, SecretPage, SecretValue, secret_view
from app.auth.permissions import Permission
from app.auth.principal import Caller

router = routing.router("/secrets", "Secrets")

# Who writes workflows has to know which secrets there are, not what they are.
CanRead = Annotated[Caller, Depends(Require(Permission.WORKFLOWS_WRITE))]
CanWrite = Annotated[Caller, Depends(Require(Permission.SECRETS_WRITE))]

_VALUE: dict[str, Any] = {"value": "sk_live_51H8xExample", "allowed_hosts": ["api.stripe.com"]}
_BODY_PROBLEMS = ("validation_error", "invalid_json", "unsupported_media_type")


@router.post(
    "",
    status_code=201,
    operation_id="createSecret",
    summary="Make a secret",
    response_model=Secret,
    responses=problems("already_exists", *_BODY_PROBLEMS),
)
async def create_secret(
    services: ServicesDep,
    caller: CanWrite,
    body: Annotated[CreateSecret, Body(openapi_examples={"key": {"value": {"name": "stripe"} | _VALUE}})],
) -> Response:
    """The value is sealed at once and never shown again, to nobody. A step sends it in place of
    `{"$secret": "stripe", "format": "Bearer {}"}`, to the allowed hosts only."""
    row = await services.secrets.create(caller, body.name, body.value, body.allowed_hosts)
    return Json(secret_view(row), 201, headers={"Location": f"/api/v1/secrets/{row['name']}"})


@router.get(
    "",
    operation_id="listSecrets",
    summary="List secrets, by name",
    response_model=SecretPage,
    responses=problems("validation_error", "invalid_cursor"),
)
async def list_secrets(
    request: Request, services: ServicesDep, caller: CanRead, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """What is known of each, for who writes workflows."""
    scope = f"{caller.org_id}:secrets"
    after = request.app.state.cursors.read(cursor, scope)
    rows = await services.secrets.page(caller, after=after, limit=limit + 1)
    return page_answer(request, rows, limit, view=secret_view, position=lambda row: str(row["name"]), scope=scope)


@router.get(
    "/{secret_name}",
    operation_id="getSecret",
    summary="Read what is known of a secret",
    response_model=Secret,
    responses=problems("not_found"),
)
async def get_secret(services: ServicesDep, caller: CanRead, secret_name: str) -> Response:
    """Everything but its value."""
    return Json(secret_view(await services.secrets.get(caller, secret_name)))


@router.put(
    "/{secret_name}",
    operation_id="replaceSecret",
    summary="Replace the value of a secret",
    response_model=Secret,
    responses=problems("not_found", *_BODY_PROBLEMS),
)
async def replace_secret(
    services: ServicesDep,
    caller: CanWrite,
    secret_name: str,
    body: Annotated[SecretValue, Body(openapi_examples={"key": {"value": _VALUE}})],
) -> Response:
    """A new version, which attempts use that begin 2 seconds later or more."""
    return Json(secret_view(await services.secrets.replace(caller, secret_name, body.value, body.allowed_hosts)))


@router.delete(
    "/{secret_name}",
    status_code=204,
    operation_id="deleteSecret",
    summary="Delete a secret",
    responses=problems("not_found"),
)
async def delete_secret(services: ServicesDep, caller: CanWrite, secret_name: str) -> Response:
    """All of it, for good. Attempts that need it fail with `secret_not_found`, within 2 seconds."""
    await services.secrets.delete(caller, secret_name)
    return Response(status_code=204)
