"""Workflows on the wire."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.responses import stored
from app.api.v1.schemas.problem import ProblemDetail
from app.domain.errors import Problem
from app.services.workflows import Validation, WorkflowDetail, WorkflowRow

_SUMMARY_EXAMPLE: dict[str, Any] = {
    "id": "wf_01k7",
    "org_id": "org_demo",
    "name": "Greet",
    "description": None,
    "project_id": None,
    "status": "active",
    "version": 2,
    "published_version": 2,
    "execution_count": 40,
    "success_count": 37,
    "failure_count": 2,
    "cancelled_count": 1,
    "last_executed_at": "2026-03-04T09:12:44.120318Z",
    "created_at": "2026-03-01T08:00:00.000000Z",
    "updated_at": "2026-03-02T16:30:12.500000Z",
    "archived_at": None,
}
_DEFINITION_EXAMPLE = {"name": "Greet", "steps": [{"id": "greet", "type": "set", "with": {"text": "Hello"}}]}


class WorkflowSummary(BaseModel):
    """A workflow as lists show it. The counters are those of ended executions: the first is the sum of the others."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SUMMARY_EXAMPLE]})

    id: str
    org_id: str
    name: str
    description: str | None
    project_id: str | None
    status: Literal["active", "draft", "archived"] = Field(description="`draft`: no version has been published yet.")
    version: int = Field(description="The latest version.")
    published_version: int | None = Field(description="The version that new executions use.")
    execution_count: int
    success_count: int
    failure_count: int
    cancelled_count: int
    last_executed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


class Workflow(WorkflowSummary):
    """A workflow with the definition of its latest version."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_SUMMARY_EXAMPLE | {"definition": _DEFINITION_EXAMPLE, "problems": []}]}
    )

    definition: dict[str, Any]
    problems: list[ProblemDetail] = Field(
        description="What keeps the latest version from running here and now, missing set-up such as a key included."
    )


class WorkflowPage(BaseModel):
    data: list[WorkflowSummary]
    next_cursor: str | None
    has_more: bool


class WorkflowVersionSummary(BaseModel):
    """One immutable version, without its definition."""

    workflow_id: str
    version: int
    valid: bool = Field(description="It had no problems when it was saved.")
    published: bool
    created_by: str | None
    created_at: datetime


class WorkflowVersion(WorkflowVersionSummary):
    """One immutable version."""

    definition: dict[str, Any]
    problems: list[ProblemDetail] = Field(description="Those it was saved with.")


class WorkflowVersionPage(BaseModel):
    data: list[WorkflowVersionSummary]
    next_cursor: str | None
    has_more: bool


class WorkflowStats(BaseModel):
    """Counters of all ended executions; durations, in seconds, of the latest 1,000 of them."""

    workflow_id: str
    execution_count: int
    success_count: int
    failure_count: int
    cancelled_count: int
    success_rate: float | None = Field(description="Completed of all ended, 0 to 1; null if none has.")
    average_duration_seconds: float | None
    p95_duration_seconds: float | None
    last_executed_at: datetime | None


class WorkflowValidation(BaseModel):
    """The result of a check."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "valid": False,
                    "problems": [
                        {
                            "pointer": "/steps/1/needs/0",
                            "code": "unknown_step",
                            "detail": "'gret' names no step of this workflow",
                        }
                    ],
                }
            ]
        }
    )

    valid: bool = Field(description="It can be saved to run. Missing set-up is a problem but makes nothing invalid.")
    problems: list[ProblemDetail]


def summary_view(row: WorkflowRow) -> dict[str, Any]:
    """A workflow as lists show it."""
    return {
        "id": row["id"],
        "org_id": row["org_id"],
        "name": row["name"],
        "description": row["description"],
        "project_id": row["project_id"],
        "status": _status(row),
        "version": row["latest_version"],
        "published_version": row["published_version"],
        **_counters(row),
        "last_executed_at": row["last_executed_at"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "archived_at": row["archived_at"],
    }


def workflow_view(detail: WorkflowDetail) -> dict[str, Any]:
    """A workflow with its latest definition and the problems of that."""
    definition = stored(detail.row["definition"])
    return summary_view(detail.row) | {"definition": definition, "problems": _problems(detail.problems)}


def version_summary_view(row: WorkflowRow) -> dict[str, Any]:
    """A version as lists show it."""
    return {
        "workflow_id": row["workflow_id"],
        "version": row["version"],
        "valid": row["problems"] == "[]",
        "published": row["published"],
        "created_by": row["created_by"],
        "created_at": row["created_at"],
    }


def version_view(row: WorkflowRow) -> dict[str, Any]:
    """A version with its definition."""
    more = {"definition": stored(row["definition"]), "problems": stored(row["problems"])}
    return version_summary_view(row) | more


def stats_view(row: WorkflowRow) -> dict[str, Any]:
    """A workflow's figures."""
    ended = row["execution_count"]
    return {
        "workflow_id": row["id"],
        **_counters(row),
        "success_rate": row["success_count"] / ended if ended else None,
        "average_duration_seconds": row["average_duration_seconds"],
        "p95_duration_seconds": row["p95_duration_seconds"],
        "last_executed_at": row["last_executed_at"],
    }


def validation_view(validation: Validation) -> dict[str, Any]:
    """The result of a check."""
    return {"valid": validation.valid, "problems": _problems(validation.problems)}


def _status(row: WorkflowRow) -> str:
    if row["archived_at"] is not None:
        return "archived"
    return "draft" if row["published_version"] is None else "active"


def _counters(row: WorkflowRow) -> dict[str, Any]:
    names = ("execution_count", "success_count", "failure_count", "cancelled_count")
    return {name: row[name] for name in names}


def _problems(problems: Iterable[Problem]) -> list[dict[str, str]]:
    return [{"pointer": item.pointer, "code": item.code, "detail": item.detail} for item in problems]
