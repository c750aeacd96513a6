"""Who is this request?

Answers are kept for at most 5 seconds, counted from before the database was asked, so a credential that has ended is
refused at most 5 seconds later while the hot path reads nothing. Refusals are not kept.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from app import clock
from app.auth.errors import refusal
from app.auth.opaque import API_KEY_PREFIX, hash_secret, parse_api_key, verify_secret
from app.auth.permissions import ROLE_PERMISSIONS, effective
from app.auth.principal import Principal
from app.auth.standing import api_key_role, session_role
from app.auth.tokens import LEEWAY, MAX_TOKEN, AccessTokens
from app.domain.errors import Unauthenticated, Unavailable
from app.engine.credentials import CredentialStore

MAX_CACHE_TTL = 5.0
TOUCH_EVERY = timedelta(minutes=1)

_NO_KEYS_HASH = hash_secret("")


@dataclass(frozen=True, slots=True)
class _Answer:
    """`ends_at` is when the credential is refused by its own terms, `read_at` (monotonic) when the store was asked."""

    principal: Principal
    ends_at: datetime | None
    read_at: float


class Authenticator:
    """Turns an `Authorization` header into a Principal. `cache_ttl` is in seconds, at most 5."""

    def __init__(
        self,
        store: CredentialStore,
        tokens: AccessTokens,
        *,
        now: Callable[[], datetime] = clock.now,
        monotonic: Callable[[], float] = clock.monotonic,
        cache_ttl: float = MAX_CACHE_TTL,
        cache_size: int = 10_000,
    ) -> None:
        if cache_ttl > MAX_CACHE_TTL:
            raise ValueError(f"cache_ttl is at most {MAX_CACHE_TTL} s: revocation must be honoured within that time")
        self._store = store
        self._tokens = tokens
        self._now = now
        self._monotonic = monotonic
        self._cache_ttl = cache_ttl
        self._cache_size = cache_size
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Principal]] = {}

    async def authenticate(self, authorization: str | None) -> Principal:
        """The principal of a Bearer access token or API key.

        Raises Unauthenticated: `missing_credentials`, `unsupported_scheme` or `invalid_token`.
        """
        credential = _bearer(authorization)
        fingerprint = hashlib.sha256(credential.encode()).digest()
        principal = self._remembered(fingerprint)
        if principal is None:
            asking = self._asking.get(fingerprint)
            if asking is None:
                asking = self._asking[fingerprint] = asyncio.create_task(self._ask(fingerprint, credential))
                asking.add_done_callback(partial(self._asked, fingerprint))
            # A crowd with one credential asks once, and who leaves the crowd does not end it.
            principal = await asyncio.shield(asking)
        return principal

    async def recheck(self, principal: Principal) -> Principal:
        """The principal as of now, read from the store, for connections that outlive a request.

        Permissions may have shrunk, never grown. Raises Unauthenticated once the credential has ended.
        """
        now = self._now()
        if principal.expires_at is not None and principal.expires_at <= now:
            raise refusal("the credential is expired")
        if principal.kind == "session":
            state = await self._store.session_state(principal.user_id, principal.org_id)
            role = session_role(state, principal.token_version)
        else:
            role = api_key_role(await self._store.api_key(principal.credential_id), now)
        return replace(principal, role=role, permissions=principal.permissions & ROLE_PERMISSIONS[role])

    def _remembered(self, fingerprint: bytes) -> Principal | None:
        answer = self._answers.get(fingerprint)
        if answer is None:
            return None
        fresh = self._monotonic() - answer.read_at < self._cache_ttl
        if fresh and (answer.ends_at is None or self._now() < answer.ends_at):
            return answer.principal
        del self._answers[fingerprint]
        return None

    def _remember(self, fingerprint: bytes, answer: _Answer) -> None:
        self._answers[fingerprint] = answer
        self._answers.move_to_end(fingerprint)
        if len(self._answers) > self._cache_size:
            self._answers.popitem(last=False)

    async def _ask(self, fingerprint: bytes, credential: str) -> Principal:
        is_key = credential.startswith(f"{API_KEY_PREFIX}_")
        answer = await (self._ask_api_key(credential) if is_key else self._ask_session(credential))
        self._remember(fingerprint, answer)
        return answer.principal

    def _asked(self, fingerprint: bytes, asking: "asyncio.Task[Principal]") -> None:
        del self._asking[fingerprint]
        if not asking.cancelled():
            asking.exception()  # retrieved: nobody may be waiting any more

    async def _ask_session(self, token: str) -> _Answer:
        claims = self._tokens.verify(token, self._now())
        read_at = self._monotonic()
        state = await self._store.session_state(claims.sub, claims.org)
        role = session_role(state, claims.tv)
        principal = Principal(
            org_id=claims.org,
            user_id=claims.sub,
            role=role,
            permissions=effective(role, claims.scopes),
            kind="session",
            credential_id=claims.jti,
            expires_at=claims.expires_at,
            token_version=claims.tv,
        )
        return _Answer(principal, claims.expires_at + timedelta(seconds=LEEWAY), read_at)

    async def _ask_api_key(self, text: str) -> _Answer:
        parsed = parse_api_key(text)
        if parsed is None:
            raise refusal("not the text of an API key")
        key_id, secret = parsed
        now, read_at = self._now(), self._monotonic()
        key = await self._store.api_key(key_id)
        # An unknown key is compared as well, so that time does not tell which keys exist.
        if not verify_secret(secret, _NO_KEYS_HASH if key is None else key.secret_hash) or key is None:
            raise refusal("no key has this id and secret")
        role = api_key_role(key, now)
        if key.last_used_at is None or now - key.last_used_at >= TOUCH_EVERY:
            with suppress(Unavailable):
                await self._store.touch_api_key(key_id)
        principal = Principal(
            org_id=key.org_id,
            user_id=key.user_id,
            role=role,
            permissions=effective(role, key.scopes),
            kind="api_key",
            credential_id=key.key_id,
            expires_at=key.expires_at,
        )
        return _Answer(principal, key.expires_at, read_at)


def _bearer(authorization: str | None) -> str:
    scheme, _, credential = (authorization or "").strip().partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise Unauthenticated(
            "This scheme of authorization is not supported: send `Authorization: Bearer <token or API key>`.",
            code="unsupported_scheme",
        )
    if not credential:
        raise Unauthenticated(
            "No credential was sent: send `Authorization: Bearer <token or API key>`.", code="missing_credentials"
        )
    if len(credential) > MAX_TOKEN or not credential.isascii():
        raise refusal("too long, or not ASCII")
    return credential
