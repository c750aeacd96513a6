"""API keys on the wire."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from app.api.v1.schemas.moments import Moment
from app.auth.permissions import Permission
from app.domain.durations import Duration
from app.services.api_keys import NewKey

KeyName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")
]


class CreateApiKey(BaseModel):
    """A key to make. Without `scopes` it may do what its creator may now; without an end it lives until revoked."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "CI", "scopes": ["executions.execute"], "ttl": "30d"}]},
    )

    name: KeyName = Field(examples=["CI"])
    scopes: Annotated[list[Permission], Field(min_length=1, max_length=len(Permission))] | None = Field(
        default=None, description="Permissions, none of which the creator lacks."
    )
    expires_at: Moment | None = Field(default=None, examples=["2030-01-01T00:00:00Z"])
    ttl: Annotated[Duration, Field(gt=0)] | None = Field(default=None, description="Instead of `expires_at`.")

    @field_validator("ttl")
    @classmethod
    def _one_end(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("expires_at") is not None:
            raise ValueError("give `expires_at` or `ttl`, not both")
        return value


class ApiKey(BaseModel):
    """A key without its secret. It acts for `user_id`, never beyond that user's role of the moment."""

    id: str
    name: str
    user_id: str
    scopes: list[Permission] | None = Field(description="What it may do; null is all that its user may.")
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Kept to the minute.")
    created_at: datetime


class CreatedApiKey(ApiKey):
    """A new key with its text, which is never shown again."""

    key: str = Field(examples=["sk_01k…"])


class ApiKeyPage(BaseModel):
    """A page of keys."""

    data: list[ApiKey]
    next_cursor: str | None
    has_more: bool


def api_key_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """A key as clients see it."""
    return {name: row[name] for name in ApiKey.model_fields}


def created_view(created: NewKey) -> dict[str, Any]:
    """The one answer that has the key's text."""
    return api_key_view(created.row) | {"key": created.key}
