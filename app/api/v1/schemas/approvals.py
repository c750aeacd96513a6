"""Approvals on the wire."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.api.responses import stored
from app.domain.jsontext import decode
from app.services.approvals import MAX_COMMENT, Approval


class ApprovalStatus(StrEnum):
    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"


class Decide(BaseModel):
    """A decision. `data` is what was filled into the form; a rejection needs none."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"decision": "approve"}]})

    decision: Literal["approve", "reject"]
    comment: Annotated[str, StringConstraints(max_length=MAX_COMMENT, pattern=r"^[^\x00]*$")] | None = None
    data: Any = None


class DecisionMade(BaseModel):
    """One person's decision. `data` of others is null without the permission `payloads.read`."""

    decision: Literal["approve", "reject"]
    comment: str | None
    data: Any
    user_id: str
    decided_at: datetime


class ApprovalDeciders(BaseModel):
    """Who may decide: these users or who has one of these roles; neither: everybody with the permission."""

    users: list[str]
    roles: list[str]
    self_approval: bool
    requested_by: str | None = Field(description="Who started the execution.")


class ApprovalAnswer(BaseModel):
    """Something that waits for people, or did.

    `step_id` is null for the approval of the whole run. `verdict` is what the decisions come to; `status` follows when
    the execution has taken them in.
    """

    id: str
    execution_id: str
    workflow_id: str
    step_id: str | None
    status: ApprovalStatus
    title: str
    message: str | None
    form: Any = Field(description="The JSON Schema of `data`, null for none.")
    deciders: ApprovalDeciders
    quorum: int
    verdict: Literal["approved", "rejected"] | None
    decisions: list[DecisionMade]
    created_at: datetime
    deadline_at: datetime | None
    decided_at: datetime | None


class ApprovalPage(BaseModel):
    data: list[ApprovalAnswer]
    next_cursor: str | None
    has_more: bool


def approval_view(approval: Approval) -> dict[str, Any]:
    row = approval.row
    deciders: Any = decode(row["deciders"])
    return {
        "id": row["id"],
        "execution_id": row["execution_id"],
        "workflow_id": row["workflow_id"],
        "step_id": row["path"],
        "status": row["status"],
        "title": row["title"],
        "message": row["message"],
        "form": stored(row["form"]),
        "deciders": {
            "users": deciders.get("users", []),
            "roles": deciders.get("roles", []),
            "self_approval": bool(deciders.get("self_approval")),
            "requested_by": deciders.get("requested_by"),
        },
        "quorum": row["quorum"],
        "verdict": approval.verdict,
        "decisions": [
            {name: getattr(decision, name) for name in DecisionMade.model_fields} for decision in approval.decisions
        ],
        "created_at": row["created_at"],
        "deadline_at": row["deadline_at"],
        "decided_at": row["decided_at"],
    }
