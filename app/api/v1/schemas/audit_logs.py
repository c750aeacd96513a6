"""The audit log on the wire."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.responses import stored
from app.db.audit_chain import Verification
from app.domain.audit_chain import MEANING


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


class BrokenLink(BaseModel):
    """Where a chain breaks first."""

    problem: Literal["head_unknown", "seal_missing", "seal_altered", "row_missing", "row_altered", "row_inserted"]
    meaning: str
    seal: int = Field(description="The number of the seal.")
    audit_id: str | None = Field(description="The row, if it is one.")


class AuditVerification(BaseModel):
    """A stretch of the chain, held against the rows that it seals."""

    sound: bool
    complete: bool = Field(description="Whether it reached the newest seal; if not, go on with `after` = `head`.")
    head: str = Field(
        description="The newest seal that is sound, as `number:hash`. It vouches for everything before: keep it "
        "elsewhere, and ask later whether the chain still contains it, with `after`."
    )
    seals: int = Field(description="Seals of this stretch that are sound.")
    rows: int = Field(description="Rows in them.")
    first_broken: BrokenLink | None
    unsealed: int = Field(description="Rows that are not sealed yet, counted up to 100,000.")
    unsealed_since: datetime | None


def verification_view(found: Verification) -> dict[str, Any]:
    """A verification as clients see it."""
    broken = found.broken
    return {
        "sound": broken is None,
        "complete": found.complete,
        "head": str(found.head),
        "seals": found.seals,
        "rows": found.rows,
        "first_broken": broken
        and {
            "problem": broken.problem,
            "meaning": MEANING[broken.problem],
            "seal": broken.seal,
            "audit_id": broken.audit_id,
        },
        "unsealed": found.unsealed,
        "unsealed_since": found.unsealed_since,
    }


def audit_log_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as clients see it; its details go out as they were stored."""
    return {name: row[name] for name in AuditLog.model_fields} | {"details": stored(row["details"])}
