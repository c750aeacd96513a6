"""The audit log on the wire."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from app.api.responses import stored


class AuditLog(BaseModel):
    """Who did what to which thing, from where, and whether it worked."""

    id: str
    org_id: str
    user_id: str | None = Field(description="Null for what was done on the server itself.")
    action: str = Field(examples=["workflow.executed"])
    resource_type: str | None = Field(examples=["workflow"])
    resource_id: str | None
    details: dict[str, Any]
    ip_address: str | None
    user_agent: str | None
    request_id: str | None
    success: bool
    error_code: str | None
    error_message: str | None
    timestamp: datetime


class AuditLogPage(BaseModel):
    """A page of the log."""

    data: list[AuditLog]
    next_cursor: str | None
    has_more: bool


def audit_log_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as clients see it; its details go out as they were stored."""
    return {name: row[name] for name in AuditLog.model_fields} | {"details": stored(row["details"])}
