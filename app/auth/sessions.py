"""Sign-in, refresh and sign-out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import assert_never

from app import clock
from app.auth.errors import RefreshReused, refusal
from app.auth.opaque import REFRESH_PREFIX, hash_secret, new_refresh_token, parse_refresh_token, refresh_token_hash
from app.auth.passwords import Passwords
from app.auth.permissions import Permission, Role, effective
from app.auth.principal import Principal
from app.auth.standing import session_role
from app.auth.throttle import SignInThrottle
from app.auth.tokens import AccessTokens
from app.domain.errors import Unauthenticated, Unavailable, clean_text
from app.engine.credentials import (
    CredentialStore,
    MembershipRecord,
    RefreshRecord,
    RefreshSuccessor,
    Reused,
    Rotated,
    SessionOwner,
    Unknown,
    UserRecord,
)

MAX_EMAIL = 320


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a client keeps; the texts are shown nowhere else."""

    access_token: str = field(repr=False)
    access_expires_at: datetime
    refresh_token: str = field(repr=False)
    refresh_expires_at: datetime


@dataclass(frozen=True, slots=True)
class SignedIn:
    principal: Principal
    tokens: TokenPair


def normal_email(email: str) -> str:
    """The one form in which e-mails are stored, compared and throttled."""
    return clean_text(email, MAX_EMAIL).strip().lower()


class Sessions:
    """Sessions of people: an access token of minutes, and a refresh token (`refresh_ttl` seconds) used once each."""

    def __init__(
        self,
        store: CredentialStore,
        tokens: AccessTokens,
        passwords: Passwords,
        throttle: SignInThrottle,
        *,
        now: Callable[[], datetime] = clock.now,
        new_id: Callable[[str], str] = clock.new_id,
        new_secret: Callable[[], str] = clock.new_secret,
        refresh_ttl: float = 30 * 86_400.0,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._passwords = passwords
        self._throttle = throttle
        self._now = now
        self._new_id = new_id
        self._new_secret = new_secret
        self._refresh_ttl = timedelta(seconds=refresh_ttl)

    async def sign_in(
        self,
        email: str,
        password: str,
        org_id: str | None = None,
        *,
        ip_address: str | None = None,
        scopes: frozenset[str] | None = None,
    ) -> SignedIn:
        """A new session in `org_id`, or in the organisation the user joined first.

        `scopes` narrow the session to these permissions; unknown ones are ignored. Raises
        Unauthenticated(`invalid_credentials`) whichever part is wrong, and Throttled after too many failures.
        """
        account = normal_email(email)
        attempt = self._throttle.admit(account, ip_address)
        try:
            user, membership = await self._checked(account, password, org_id)
            signed_in = await self._open(user, membership, scopes)
        except Unavailable:
            self._throttle.withdraw(attempt)
            raise
        self._throttle.withdraw(attempt)
        return signed_in

    async def refresh(self, refresh_token: str) -> SignedIn:
        """The next pair of a session; the token given is used up.

        Raises Unauthenticated(`invalid_token`), or RefreshReused if the token had been used up before.
        """
        parsed = parse_refresh_token(refresh_token)
        if parsed is None:
            raise refusal("not the text of a refresh token")
        token_id, secret = parsed
        now = self._now()
        text, successor = self._new_refresh(now)
        outcome = await self._store.take_refresh(token_id, hash_secret(secret), successor, now)
        match outcome:
            case Rotated(successor=record):
                return self._signed_in(record, text, await self._current_role(record), now)
            case Reused(owner=owner):
                raise RefreshReused(owner.org_id, owner.user_id)
            case Unknown():
                raise refusal("no such refresh token")
            case _:
                assert_never(outcome)

    async def sign_out(self, refresh_token: str) -> SessionOwner | None:
        """End the session of a refresh token, for good; None if there was none.

        Its access token lives on to its end, at most the access tokens' `ttl`.
        """
        parsed = parse_refresh_token(refresh_token)
        if parsed is None:
            return None
        token_id, secret = parsed
        return await self._store.revoke_refresh_family(token_id, hash_secret(secret))

    async def _checked(self, account: str, password: str, org_id: str | None) -> tuple[UserRecord, MembershipRecord]:
        user = await self._store.user_by_email(account)
        matches = await self._passwords.verify(user.password_hash if user else None, password)
        if user is None or not matches or user.disabled:
            raise _wrong_credentials()
        memberships = await self._store.memberships(user.id)
        wanted = [membership for membership in memberships if org_id in (None, membership.org_id)]
        if not wanted:
            raise _wrong_credentials()
        return user, min(wanted, key=lambda membership: (membership.created_at, membership.org_id))

    async def _open(self, user: UserRecord, membership: MembershipRecord, scopes: frozenset[str] | None) -> SignedIn:
        now = self._now()
        text, first = self._new_refresh(now)
        record = RefreshRecord(
            token_id=first.token_id,
            family_id=first.token_id,
            secret_hash=first.secret_hash,
            org_id=membership.org_id,
            user_id=user.id,
            token_version=user.token_version,
            scopes=None if scopes is None else frozenset(str(known) for known in Permission if known in scopes),
            expires_at=first.expires_at,
        )
        await self._store.add_refresh(record)
        return self._signed_in(record, text, Role(membership.role), now)

    async def _current_role(self, record: RefreshRecord) -> Role:
        state = await self._store.session_state(record.user_id, record.org_id)
        try:
            return session_role(state, record.token_version)
        except Unauthenticated:
            await self._store.revoke_refresh_family(record.token_id, record.secret_hash)
            raise

    def _new_refresh(self, now: datetime) -> tuple[str, RefreshSuccessor]:
        token_id = self._new_id(REFRESH_PREFIX)
        text = new_refresh_token(token_id, self._new_secret())
        return text, RefreshSuccessor(token_id, refresh_token_hash(text), now + self._refresh_ttl)

    def _signed_in(self, record: RefreshRecord, refresh_token: str, role: Role, now: datetime) -> SignedIn:
        jti = self._new_id("jti")
        access_token, access_expires_at = self._tokens.issue(
            record.user_id, record.org_id, record.token_version, now, jti, scopes=record.scopes
        )
        principal = Principal(
            org_id=record.org_id,
            user_id=record.user_id,
            role=role,
            permissions=effective(role, record.scopes),
            kind="session",
            credential_id=jti,
            expires_at=access_expires_at,
            token_version=record.token_version,
        )
        return SignedIn(principal, TokenPair(access_token, access_expires_at, refresh_token, record.expires_at))


def _wrong_credentials() -> Unauthenticated:
    return Unauthenticated("E-mail, password or organisation is wrong.", code="invalid_credentials")
