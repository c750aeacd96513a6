"""Who is calling."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from app.auth.permissions import Permission, Role

CredentialKind: TypeAlias = Literal["session", "api_key"]


@dataclass(frozen=True, slots=True)
class Principal:
    """A user acting in one organisation by one credential.

    `credential_id` is the token's `jti` or the key's `key_…`. `expires_at` is the credential's end, None for a key
    without one. `token_version` is the user's at the time the session's token was made, None for keys.
    """

    org_id: str
    user_id: str
    role: Role
    permissions: frozenset[Permission]
    kind: CredentialKind
    credential_id: str
    expires_at: datetime | None
    token_version: int | None = None

    def allows(self, permission: Permission) -> bool:
        return permission in self.permissions


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal and the request it came with, as records and the audit log keep them.

    `hops` is how many runs led to the request by HTTP.
    """

    principal: Principal
    ip_address: str | None
    user_agent: str | None
    request_id: str
    hops: int = 0

    @property
    def org_id(self) -> str:
        return self.principal.org_id

    @property
    def user_id(self) -> str:
        return self.principal.user_id
