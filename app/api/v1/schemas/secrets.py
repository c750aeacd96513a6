"""Secrets on the wire: values come in, and none goes out."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.domain.scrubbing import SHORTEST
from app.domain.secrets import NAME_PATTERN, host_problem
from app.services.secrets import SecretRow

LONGEST = 16_384
"""Characters of a value."""


def _host(pattern: str) -> str:
    if problem := host_problem(pattern):
        raise ValueError(problem)
    return pattern


class SecretValue(BaseModel):
    """A value and where it may be sent. They come together: whoever sends a value elsewhere has to know it."""

    model_config = ConfigDict(extra="forbid")

    value: str = Field(
        min_length=SHORTEST,
        max_length=LONGEST,
        repr=False,
        description="Never shown again. A shorter one could not be recognised and cut out of what is recorded.",
        examples=["sk_live_51H8xExample"],
    )
    allowed_hosts: list[Annotated[str, AfterValidator(_host)]] = Field(
        min_length=1,
        max_length=20,
        description="`api.example.com`, `*.example.com` for all below that name, `api.example.com:8443` for one port.",
        examples=[["api.stripe.com"]],
    )


class CreateSecret(SecretValue):
    """A secret to make."""

    name: str = Field(
        pattern=NAME_PATTERN,
        description="Unique in the organisation; upper and lower case differ.",
        examples=["stripe"],
    )


class Secret(BaseModel):
    """What is known of a secret."""

    name: str
    version: int = Field(description="1, and 1 more with each new value.")
    allowed_hosts: list[str]
    last4: str | None = Field(description="The end of the value, if the value is long enough for that to be harmless.")
    updated_at: datetime = Field(description="When the value was set.")
    updated_by: str = Field(description="Who set it.")
    last_used_at: datetime | None = Field(description="When a step last used this value; kept to the minute.")


class SecretPage(BaseModel):
    """A page of secrets."""

    data: list[Secret]
    next_cursor: str | None
    has_more: bool


def secret_view(row: SecretRow) -> dict[str, Any]:
    """A secret as clients see it."""
    return {name: row[name] for name in Secret.model_fields}
