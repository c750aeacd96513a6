"""A clock that is set by hand, a credential store in dicts, and a maker of hand-made JWTs."""

import base64
import hmac
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from app.auth.secret import derive
from app.engine.credentials import (
    ApiKeyRecord,
    MembershipRecord,
    RefreshOutcome,
    RefreshRecord,
    RefreshSuccessor,
    Reused,
    Rotated,
    SessionOwner,
    SessionState,
    TicketRecord,
    Unknown,
    UserRecord,
)

MASTER = b"a master secret of thirty-two bytes and some more"
NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


class FakeClock:
    def __init__(self) -> None:
        self.elapsed = 0.0

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return 1000.0 + self.elapsed

    def advance(self, seconds: float) -> None:
        self.elapsed += seconds


class FakeStore:
    """The semantics of CredentialStore; `calls` counts each method."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.calls: Counter[str] = Counter()
        self.users: dict[str, UserRecord] = {}
        self.members: dict[tuple[str, str], MembershipRecord] = {}
        self.keys: dict[str, ApiKeyRecord] = {}
        self.refresh: dict[str, RefreshRecord] = {}
        self.used: set[str] = set()
        self.revoked_families: set[str] = set()
        self.tickets: dict[str, TicketRecord] = {}
        self.failing: Exception | None = None

    def _called(self, name: str) -> None:
        self.calls[name] += 1
        if self.failing is not None:
            raise self.failing

    async def user_by_email(self, email: str) -> UserRecord | None:
        self._called("user_by_email")
        return next((user for user in self.users.values() if user.email == email), None)

    async def memberships(self, user_id: str) -> list[MembershipRecord]:
        self._called("memberships")
        return sorted((m for (user, _), m in self.members.items() if user == user_id), key=lambda m: m.created_at)

    async def session_state(self, user_id: str, org_id: str) -> SessionState | None:
        self._called("session_state")
        user, member = self.users.get(user_id), self.members.get((user_id, org_id))
        if user is None:
            return None
        return SessionState(user.token_version, user.disabled, member.role if member else None)

    async def api_key(self, key_id: str) -> ApiKeyRecord | None:
        self._called("api_key")
        return self.keys.get(key_id)

    async def touch_api_key(self, key_id: str) -> None:
        self._called("touch_api_key")
        self.keys[key_id] = replace(self.keys[key_id], last_used_at=self.clock.now())

    async def add_refresh(self, record: RefreshRecord) -> None:
        self._called("add_refresh")
        self.refresh[record.token_id] = record

    async def take_refresh(
        self, token_id: str, secret_hash: str, successor: RefreshSuccessor, now: datetime
    ) -> RefreshOutcome:
        self._called("take_refresh")
        record = self.refresh.get(token_id)
        if record is None or record.secret_hash != secret_hash:
            return Unknown()
        if token_id in self.used:
            self.revoked_families.add(record.family_id)
            return Reused(SessionOwner(record.org_id, record.user_id))
        if record.family_id in self.revoked_families or record.expires_at <= now:
            return Unknown()
        self.used.add(token_id)
        rotated = replace(
            record,
            token_id=successor.token_id,
            secret_hash=successor.secret_hash,
            expires_at=successor.expires_at,
        )
        self.refresh[successor.token_id] = rotated
        return Rotated(rotated)

    async def revoke_refresh_family(self, token_id: str, secret_hash: str) -> SessionOwner | None:
        self._called("revoke_refresh_family")
        record = self.refresh.get(token_id)
        if record is None or record.secret_hash != secret_hash:
            return None
        self.revoked_families.add(record.family_id)
        return SessionOwner(record.org_id, record.user_id)

    async def add_ticket(self, record: TicketRecord) -> None:
        self._called("add_ticket")
        self.tickets[record.ticket_hash] = record

    async def take_ticket(self, ticket_hash: str, now: datetime) -> TicketRecord | None:
        self._called("take_ticket")
        record = self.tickets.pop(ticket_hash, None)
        return record if record is not None and record.expires_at > now else None


def add_member(store: FakeStore, user_id: str, org_id: str, role: str = "member", joined: datetime = NOW) -> None:
    store.users.setdefault(user_id, UserRecord(user_id, f"{user_id}@example.org", user_id, None, 1, False))
    store.members[user_id, org_id] = MembershipRecord(org_id, role, joined)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def good_header() -> dict[str, object]:
    return {"alg": "HS256", "typ": "at+jwt", "kid": "1"}


def good_claims() -> dict[str, object]:
    issued = int(NOW.timestamp())
    return {
        "iss": "stepstream",
        "aud": "stepstream-api",
        "sub": "user_a",
        "org": "org_a",
        "jti": "jti_a",
        "iat": issued,
        "exp": issued + 600,
        "tv": 1,
    }


def forge(
    header: dict[str, object] | str | None = None,
    claims: dict[str, object] | str | None = None,
    key: bytes | None = None,
    digest: str = "sha256",
) -> str:
    """A token with a valid HMAC signature under `key` (by default the deployment's own), whatever it says."""
    header = good_header() if header is None else header
    claims = good_claims() if claims is None else claims
    parts = [b64((part if isinstance(part, str) else json.dumps(part)).encode()) for part in (header, claims)]
    signed = ".".join(parts)
    signature = hmac.new(derive(MASTER, "jwt:1") if key is None else key, signed.encode(), digest).digest()
    return f"{signed}.{b64(signature)}"
