"""How auth reaches its tables. Nothing here knows SQL, roles or permissions; roles are their names.

Every method may raise Unavailable when the database does not answer.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class UserRecord:
    """`token_version` rises whenever the user's sessions must end: a new password, a forced sign-out."""

    id: str
    email: str
    name: str
    password_hash: str | None
    token_version: int
    disabled: bool


@dataclass(frozen=True, slots=True)
class MembershipRecord:
    org_id: str
    role: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SessionState:
    """A user as of now, seen from one organisation; `role` is None for who is not, or no longer, a member."""

    token_version: int
    disabled: bool
    role: str | None


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """A key with the state of its creator as of now: `role` in the key's organisation, None if no longer a member.

    `scopes` None means all that the role allows.
    """

    key_id: str
    org_id: str
    user_id: str
    secret_hash: str
    scopes: frozenset[str] | None
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    role: str | None
    user_disabled: bool


@dataclass(frozen=True, slots=True)
class RefreshRecord:
    """A refresh token. A family is all tokens rotated from one sign-in; its id is that of the first."""

    token_id: str
    family_id: str
    secret_hash: str
    org_id: str
    user_id: str
    token_version: int
    scopes: frozenset[str] | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class RefreshSuccessor:
    """What is new in the token that replaces a rotated one; the rest is inherited."""

    token_id: str
    secret_hash: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SessionOwner:
    org_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class Rotated:
    """The token was good, is now used, and `successor` stands in its place."""

    successor: RefreshRecord


@dataclass(frozen=True, slots=True)
class Reused:
    """The token had been used before; its whole family is now revoked."""

    owner: SessionOwner


@dataclass(frozen=True, slots=True)
class Unknown:
    """No such token, another secret, expired or revoked; nothing was changed."""


RefreshOutcome: TypeAlias = Rotated | Reused | Unknown


@dataclass(frozen=True, slots=True)
class TicketRecord:
    """A stream ticket, found by the hash of its text, and the principal it stands for.

    `execution_id` None is the organisation's stream. `origin` is the browser's that asked for it, if one did.
    """

    ticket_hash: str
    org_id: str
    user_id: str
    kind: Literal["session", "api_key"]
    credential_id: str
    credential_expires_at: datetime | None
    token_version: int | None
    permissions: frozenset[str]
    execution_id: str | None
    origin: str | None
    expires_at: datetime


class CredentialStore(Protocol):
    """Reads and writes across organisations, before one is known."""

    async def user_by_email(self, email: str) -> UserRecord | None:
        """The user with exactly this e-mail; `normal_email` has been applied, as it must be to what is stored."""

    async def memberships(self, user_id: str) -> list[MembershipRecord]:
        """All of a user's memberships, the oldest first."""

    async def session_state(self, user_id: str, org_id: str) -> SessionState | None:
        """None if there is no such user."""

    async def api_key(self, key_id: str) -> ApiKeyRecord | None:
        """The key (`key_…`), also a revoked or expired one."""

    async def touch_api_key(self, key_id: str) -> None:
        """Set the key's `last_used_at` to the database's time."""

    async def add_refresh(self, record: RefreshRecord) -> None:
        """Store the first token of a new family."""

    async def take_refresh(
        self, token_id: str, secret_hash: str, successor: RefreshSuccessor, now: datetime
    ) -> RefreshOutcome:
        """Use a token once, in one transaction that locks its row first.

        1. No row with this id and hash: Unknown, so that knowing an id revokes nothing.
        2. Used before, expired since or not: revoke every token of its family and commit, then Reused.
        3. Revoked, or `expires_at <= now`: Unknown.
        4. Otherwise mark it used and insert the successor (family, owner, token version and scopes inherited).

        Of two calls at once with the same token exactly one is Rotated, and the other revokes its successor too. A
        lost answer is asked for again.
        """

    async def revoke_refresh_family(self, token_id: str, secret_hash: str) -> SessionOwner | None:
        """Revoke every token of this token's family, whatever its state; None if id and hash match no row."""

    async def add_ticket(self, record: TicketRecord) -> None: ...

    async def take_ticket(self, ticket_hash: str, now: datetime) -> TicketRecord | None:
        """Delete and return the ticket if `expires_at > now`; of two calls at once one gets it."""
