"""API keys: make, list, read, revoke."""

from datetime import timedelta
from typing import Annotated

from fastapi import Body, Depends
from starlette.requests import Request
from starlette.responses import Response

from app import clock
from app.api import routing
from app.api.deps import Require, ServicesDep
from app.api.pagination import Cursor, Limit, page_answer
from app.api.responses import NO_STORE, Json
from app.api.routing import problems
from app.api.v1.schemas.api_keys import ApiKey, ApiKeyPage, CreateApiKey, CreatedApiKey, api_key_view, created_view
from app.auth.permissions import Permission
from app.auth.principal import Caller

router = routing.router("/api-keys", "API keys")

CanManage = Annotated[Caller, Depends(Require(Permission.API_KEYS_MANAGE))]


@router.post(
    "",
    status_code=201,
    operation_id="createApiKey",
    summary="Make an API key",
    response_model=CreatedApiKey,
    responses=problems("invalid_json", "unsupported_media_type", "validation_error"),
)
async def create_api_key(
    services: ServicesDep,
    caller: CanManage,
    body: Annotated[
        CreateApiKey,
        Body(
            openapi_examples={
                "all": {"summary": "All that you may, until revoked", "value": {"name": "Backend"}},
                "narrow": {
                    "summary": "Starts executions for 30 days",
                    "value": {"name": "CI", "scopes": ["executions.execute", "executions.read"], "ttl": "30d"},
                },
            }
        ),
    ],
) -> Response:
    """The answer's `key` is shown this once: only its hash is kept. 403 for a scope that you lack yourself."""
    expires_at = body.expires_at if body.ttl is None else clock.now() + timedelta(seconds=body.ttl)
    scopes = None if body.scopes is None else frozenset(body.scopes)
    created = await services.api_keys.create(caller, body.name, scopes, expires_at)
    headers = {"Location": f"/api/v1/api-keys/{created.row['id']}"} | NO_STORE
    return Json(created_view(created), 201, headers=headers)


@router.get(
    "",
    operation_id="listApiKeys",
    summary="List API keys, the newest first",
    response_model=ApiKeyPage,
    responses=problems("validation_error", "invalid_cursor"),
)
async def list_api_keys(
    request: Request, services: ServicesDep, caller: CanManage, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """Your own keys; owners and admins see those of the whole organisation."""
    scope = f"{caller.org_id}:api-keys"
    before = request.app.state.cursors.read(cursor, scope)
    rows = await services.api_keys.page(caller, before=before, limit=limit + 1)
    return page_answer(request, rows, limit, view=api_key_view, position=lambda row: str(row["id"]), scope=scope)


@router.get(
    "/{key_id}",
    operation_id="getApiKey",
    summary="Read an API key",
    response_model=ApiKey,
    responses=problems("not_found"),
)
async def get_api_key(services: ServicesDep, caller: CanManage, key_id: str) -> Response:
    """Everything but its secret."""
    return Json(api_key_view(await services.api_keys.get(caller, key_id)))


@router.delete(
    "/{key_id}",
    status_code=204,
    operation_id="revokeApiKey",
    summary="Revoke an API key",
    responses=problems("not_found"),
)
async def revoke_api_key(services: ServicesDep, caller: CanManage, key_id: str) -> Response:
    """Refused everywhere within 5 seconds, for good. The row stays, for the audit log; repeating it changes nothing."""
    await services.api_keys.revoke(caller, key_id)
    return Response(status_code=204)
