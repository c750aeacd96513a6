"""Sessions on the wire."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.stream_session import SUBPROTOCOL
from app.auth.permissions import Permission, Role
from app.auth.principal import Principal
from app.auth.sessions import SignedIn
from app.auth.tickets import IssuedTicket


class RefreshToken(BaseModel):
    """A refresh token, as `/auth/token` or the last refresh answered it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"refresh_token": "rt_01k…"}]})

    refresh_token: str = Field(min_length=1, max_length=200)


class Tokens(BaseModel):
    """OAuth2's token answer, with whom and where it stands for. `expires_in` is in seconds, `scope` the permissions."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: int = Field(examples=[600])
    refresh_token: str
    scope: str = Field(examples=["executions.read workflows.read"])
    org_id: str
    user_id: str


class MeUser(BaseModel):
    """A person."""

    id: str
    email: str
    name: str


class MeOrganization(BaseModel):
    """An organisation."""

    id: str
    name: str


class MeCredential(BaseModel):
    """What the request was authorised by; `expires_at` is null for a key without an end."""

    kind: Literal["session", "api_key"]
    id: str
    expires_at: datetime | None


class Me(BaseModel):
    """Who the credential stands for, where, and what it may do."""

    user: MeUser
    organization: MeOrganization
    role: Role
    permissions: list[Permission]
    credential: MeCredential


class TicketRequest(BaseModel):
    """The stream a ticket is for: an execution's, or without one the organisation's."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"execution_id": "exec_01k…"}]})

    execution_id: str | None = Field(default=None, max_length=64)


class Ticket(BaseModel):
    """A ticket for one connection, good for `expires_in` seconds. A browser offers `protocols` to the WebSocket."""

    ticket: str
    expires_in: int = Field(examples=[30])
    protocols: list[str] = Field(examples=[[SUBPROTOCOL, "ticket.<ticket>"]])


def tokens_view(signed_in: SignedIn, now: datetime) -> dict[str, Any]:
    """The answer to a sign-in or a refresh."""
    principal, tokens = signed_in.principal, signed_in.tokens
    return {
        "access_token": tokens.access_token,
        "token_type": "bearer",
        "expires_in": _seconds_until(tokens.access_expires_at, now),
        "refresh_token": tokens.refresh_token,
        "scope": " ".join(sorted(principal.permissions)),
        "org_id": principal.org_id,
        "user_id": principal.user_id,
    }


def me_view(principal: Principal, member: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to `GET /auth/me`."""
    return {
        "user": {"id": member["user_id"], "email": member["email"], "name": member["user_name"]},
        "organization": {"id": member["org_id"], "name": member["org_name"]},
        "role": principal.role.value,
        "permissions": sorted(principal.permissions),
        "credential": {
            "kind": principal.kind,
            "id": principal.credential_id,
            "expires_at": principal.expires_at,
        },
    }


def ticket_view(issued: IssuedTicket, now: datetime) -> dict[str, Any]:
    """The answer to a request for a ticket."""
    return {
        "ticket": issued.ticket,
        "expires_in": _seconds_until(issued.expires_at, now),
        "protocols": [SUBPROTOCOL, f"ticket.{issued.ticket}"],
    }


def _seconds_until(end: datetime, now: datetime) -> int:
    return math.ceil((end - now).total_seconds())
