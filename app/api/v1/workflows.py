"""Workflows: save, read, list, check, delete; their versions and figures."""

import re
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Header, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import Require, ServicesDep
from app.api.documents import definition_body, read_document
from app.api.pagination import Cursor, Limit, page_answer
from app.api.responses import NO_STORE, Json
from app.api.routing import problems
from app.api.routing import router as resource_router
from app.api.v1.schemas.workflows import (
    Workflow,
    WorkflowPage,
    WorkflowStats,
    WorkflowValidation,
    WorkflowVersion,
    WorkflowVersionPage,
    stats_view,
    summary_view,
    validation_view,
    version_summary_view,
    version_view,
    workflow_view,
)
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.db.queries.workflows import WorkflowFilter
from app.services.workflows import IfMatch, WorkflowDetail

router = resource_router("/workflows", "Workflows")

CanRead = Annotated[Caller, Depends(Require(Permission.WORKFLOWS_READ))]
CanWrite = Annotated[Caller, Depends(Require(Permission.WORKFLOWS_WRITE))]
Document = Annotated[object, Depends(read_document)]
Draft = Annotated[bool, Query(description="Save it even if it cannot run, with its problems; nothing is published.")]
VersionNumber = Annotated[int, Path(ge=1, lt=1 << 31, description="The number of the version.")]
IfMatchHeader = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="The ETag that the change is based on; `*`: whichever is latest.",
        openapi_examples={"version": {"value": '"v3"'}},
    ),
]

_READABLE = ("invalid_json", "invalid_yaml", "body_too_large", "unsupported_media_type")
_EDITABLE = ("not_found", "precondition_required", "version_conflict")
_ETAG: dict[str, Any] = {"ETag": {"description": '`"v<version>"`, for If-Match', "schema": {"type": "string"}}}
_BODY = {"requestBody": definition_body()}
_TAG = re.compile(r'"([^"]*)"')
_VERSION_TAG = re.compile(r"v([0-9]{1,9})")


@router.post(
    "",
    status_code=201,
    operation_id="createWorkflow",
    summary="Create a workflow",
    response_model=Workflow,
    responses={
        201: {
            "description": "The workflow",
            "headers": _ETAG | {"Location": {"description": "Its path", "schema": {"type": "string"}}},
        },
        **problems(*_READABLE, "validation_error", "workflow_invalid", "already_exists"),
    },
    openapi_extra=_BODY,
)
async def create_workflow(
    services: ServicesDep, caller: CanWrite, document: Document, draft: Draft = False
) -> Response:
    """The body is the definition itself, as JSON or YAML. It may bring its own `id`; the first version is published.

    A definition that cannot run is refused with everything that is wrong with it, unless `?draft=true`.
    """
    saved = await services.workflows.create(caller, document, draft=draft)
    return _answer(saved, 201, {"Location": f"/api/v1/workflows/{saved.row['id']}"})


@router.get(
    "",
    operation_id="listWorkflows",
    summary="List workflows, the newest first",
    response_model=WorkflowPage,
    responses=problems("validation_error", "invalid_cursor"),
)
async def list_workflows(
    request: Request,
    services: ServicesDep,
    caller: CanRead,
    q: Annotated[str | None, Query(max_length=200, description="A part of the name, in any case.")] = None,
    archived: Annotated[bool, Query(description="Archived ones too.")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Without definitions. Filter by name; page by cursor."""
    scope = f"{caller.org_id}:workflows"
    position = request.app.state.cursors.read(cursor, scope)
    wanted = WorkflowFilter(name_part=q or None, archived=archived)
    before = None if position is None else _position(position)
    rows = await services.workflows.page(caller, wanted, before=before, limit=limit + 1)
    return page_answer(
        request,
        rows,
        limit,
        view=summary_view,
        position=lambda row: f"{row['created_at'].isoformat()} {row['id']}",
        scope=scope,
    )


@router.post(
    "/validate",
    operation_id="validateWorkflow",
    summary="Check a definition without saving it",
    response_model=WorkflowValidation,
    responses=problems(*_READABLE),
    openapi_extra=_BODY,
)
async def validate_workflow(services: ServicesDep, caller: CanRead, document: Document) -> Response:
    """Everything that is wrong, each with a code and a JSON pointer. Whatever is found, the answer is 200."""
    return Json(validation_view(await services.workflows.validate(caller, document)))


@router.get(
    "/{workflow_id}",
    operation_id="getWorkflow",
    summary="Read a workflow",
    response_model=Workflow,
    responses={
        200: {"description": "The workflow", "headers": _ETAG},
        304: {"description": "The latest version is one of those in If-None-Match", "headers": _ETAG},
        **problems("not_found"),
    },
)
async def get_workflow(
    services: ServicesDep,
    caller: CanRead,
    workflow_id: str,
    if_none_match: Annotated[str | None, Header(description="ETags whose definition is known already.")] = None,
) -> Response:
    """With the definition of the latest version, and what keeps it from running. Archived ones are shown too."""
    detail = await services.workflows.get(caller, workflow_id)
    known = _versions_in(if_none_match)
    if known is not None and (known == "*" or detail.row["latest_version"] in known):
        return Response(status_code=304, headers=_etag(detail) | NO_STORE)
    return _answer(detail)


@router.put(
    "/{workflow_id}",
    operation_id="replaceWorkflow",
    summary="Save a new version of a workflow",
    response_model=Workflow,
    responses={
        200: {"description": "The workflow", "headers": _ETAG},
        **problems(*_READABLE, *_EDITABLE, "validation_error", "workflow_invalid", "invalid_state"),
    },
    openapi_extra=_BODY,
)
async def replace_workflow(
    services: ServicesDep,
    caller: CanWrite,
    document: Document,
    workflow_id: str,
    if_match: IfMatchHeader = None,
    draft: Draft = False,
) -> Response:
    """New executions use the new version, unless it is a draft; running ones keep theirs.

    Sending the document of the latest version again makes no new one.
    """
    base = _versions_in(if_match)
    return _answer(await services.workflows.replace(caller, workflow_id, document, if_match=base, draft=draft))


@router.delete(
    "/{workflow_id}",
    status_code=204,
    operation_id="deleteWorkflow",
    summary="Delete a workflow",
    responses=problems(*_EDITABLE),
)
async def delete_workflow(
    services: ServicesDep, caller: CanWrite, workflow_id: str, if_match: IfMatchHeader = None
) -> Response:
    """One that has executions is archived: their records stay complete, and no new ones start."""
    await services.workflows.delete(caller, workflow_id, _versions_in(if_match))
    return Response(status_code=204)


@router.get(
    "/{workflow_id}/versions",
    operation_id="listWorkflowVersions",
    summary="List a workflow's versions, the newest first",
    response_model=WorkflowVersionPage,
    responses=problems("not_found", "validation_error", "invalid_cursor"),
)
async def list_versions(
    request: Request,
    services: ServicesDep,
    caller: CanRead,
    workflow_id: str,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Without definitions; every saved change is a version."""
    scope = f"{caller.org_id}:workflows:{workflow_id}:versions"
    position = request.app.state.cursors.read(cursor, scope)
    before = None if position is None else int(position)
    rows = await services.workflows.versions(caller, workflow_id, before=before, limit=limit + 1)
    return page_answer(
        request, rows, limit, view=version_summary_view, position=lambda row: str(row["version"]), scope=scope
    )


@router.get(
    "/{workflow_id}/versions/{number}",
    operation_id="getWorkflowVersion",
    summary="Read one version of a workflow",
    response_model=WorkflowVersion,
    responses=problems("not_found", "validation_error"),
)
async def get_version(services: ServicesDep, caller: CanRead, workflow_id: str, number: VersionNumber) -> Response:
    """With its definition, and the problems it was saved with."""
    return Json(version_view(await services.workflows.version(caller, workflow_id, number)))


@router.get(
    "/{workflow_id}/stats",
    operation_id="getWorkflowStats",
    summary="Read a workflow's figures",
    response_model=WorkflowStats,
    responses=problems("not_found"),
)
async def get_stats(services: ServicesDep, caller: CanRead, workflow_id: str) -> Response:
    """Counters over all ended executions, durations over the latest 1,000."""
    return Json(stats_view(await services.workflows.stats(caller, workflow_id)))


def _answer(detail: WorkflowDetail, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # The tag is that of the definition; the counters move under it, so nobody may keep the answer.
    return Json(workflow_view(detail), status, headers=_etag(detail) | NO_STORE | (headers or {}))


def _etag(detail: WorkflowDetail) -> dict[str, str]:
    return {"ETag": f'"v{detail.row["latest_version"]}"'}


def _versions_in(header: str | None) -> IfMatch:
    """The versions named by entity tags. Weak tags count: proxies that compress weaken ours."""
    if header is None:
        return None
    if header.strip() == "*":
        return "*"
    named = (_VERSION_TAG.fullmatch(tag) for tag in _TAG.findall(header))
    return frozenset(int(found[1]) for found in named if found)


def _position(position: str) -> tuple[datetime, str]:
    created_at, _, workflow_id = position.partition(" ")
    return datetime.fromisoformat(created_at), workflow_id
