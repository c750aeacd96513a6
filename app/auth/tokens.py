"""Access tokens: the only importer of jose.

jose alone accepts too much: a missing audience, `crit`, numbers as strings, tokens of any size, re-encoded signatures
and, with bare key bytes, another algorithm's key. It also raises what is no JOSEError, and reads its own clock. So
the header is checked before jose sees the token, keys are `Key` objects that pin their algorithm, and every claim is
checked by type and by the given time afterwards. Whatever goes wrong is the same refusal.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn

from jose import jwt
from jose.backends.base import Key
from jose.jwk import construct
from pydantic import BaseModel, ConfigDict, Field

from app.auth.errors import refusal
from app.auth.secret import derive

ALGORITHM = "HS256"
TOKEN_TYPE = "at+jwt"  # noqa: S105 - RFC 9068's media type
LEEWAY = 30
MAX_TOKEN = 4096
MAX_HEADER = 512

# `require_exp` is missing on purpose: jose would then check exp by the wall clock. Claims requires it instead.
_OPTIONS = {f"require_{claim}": True for claim in ("aud", "iss", "sub", "iat", "jti")} | {
    "verify_exp": False,
    "verify_nbf": False,
}


class Claims(BaseModel):
    """What an access token says, and nothing else. Times are whole seconds since 1970."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)

    iss: str
    aud: str
    sub: str = Field(min_length=1, max_length=64)
    org: str = Field(min_length=1, max_length=64)
    jti: str = Field(min_length=1, max_length=64)
    iat: int
    exp: int
    tv: int
    scp: list[str] | None = None

    @property
    def scopes(self) -> frozenset[str] | None:
        """None when the token does not narrow its user's role."""
        return None if self.scp is None else frozenset(self.scp)

    @property
    def expires_at(self) -> datetime:
        return datetime.fromtimestamp(self.exp, UTC)


@dataclass(frozen=True, slots=True)
class _RingKey:
    algorithm: str
    key: Key


class AccessTokens:
    """Issues and verifies the JWTs of one deployment.

    `ttl` is in seconds and also the longest lifetime accepted. `kids` are the live keys, the signing one first: to
    rotate, put the new one in front and drop the old one after `ttl`.
    """

    def __init__(
        self,
        master: bytes,
        ttl: float = 600.0,
        *,
        kids: Sequence[str] = ("1",),
        issuer: str = "stepstream",
        audience: str = "stepstream-api",
    ) -> None:
        self._ttl = int(ttl)
        self._issuer = issuer
        self._audience = audience
        self._signing_kid = kids[0]
        self._ring = {
            kid: _RingKey(ALGORITHM, construct(derive(master, f"jwt:{kid}"), algorithm=ALGORITHM)) for kid in kids
        }

    def issue(
        self,
        user_id: str,
        org_id: str,
        token_version: int,
        now: datetime,
        jti: str,
        *,
        scopes: frozenset[str] | None = None,
    ) -> tuple[str, datetime]:
        """A signed token and when it expires; `scopes` narrow what the user's role allows."""
        issued_at = int(now.timestamp())
        claims: dict[str, object] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": user_id,
            "org": org_id,
            "jti": jti,
            "iat": issued_at,
            "exp": issued_at + self._ttl,
            "tv": token_version,
        }
        if scopes is not None:
            claims["scp"] = sorted(scopes)
        ring_key = self._ring[self._signing_kid]
        headers = {"typ": TOKEN_TYPE, "kid": self._signing_kid}
        token = jwt.encode(claims, ring_key.key, algorithm=ring_key.algorithm, headers=headers)
        return token, datetime.fromtimestamp(issued_at + self._ttl, UTC)

    def verify(self, token: str, now: datetime) -> Claims:
        """The claims of a token of ours that is valid at `now`, with 30 s for clocks that differ.

        Raises Unauthenticated(`invalid_token`) for anything else.
        """
        try:
            return self._verified(token, now.timestamp())
        except Exception as error:  # OverflowError, RecursionError and KeyError as well as JOSEError
            raise refusal(error) from error

    def _verified(self, token: str, now: float) -> Claims:
        ring_key = self._key_for(token)
        found = jwt.decode(
            token,
            ring_key.key,
            algorithms=[ring_key.algorithm],
            options=_OPTIONS,
            audience=self._audience,
            issuer=self._issuer,
        )
        claims = Claims.model_validate(found)
        if claims.iat > now + LEEWAY:
            raise ValueError("issued in the future")
        if not 0 < claims.exp - claims.iat <= self._ttl:
            raise ValueError("lifetime out of range")
        if now >= claims.exp + LEEWAY:
            raise ValueError("expired")
        return claims

    def _key_for(self, token: str) -> _RingKey:
        if len(token) > MAX_TOKEN:
            raise ValueError("too long")
        parts = token.split(".")
        if len(parts) != 3:
            raise ValueError("not three parts")
        header_bytes, _, _ = (_decoded(part) for part in parts)
        header = _strict_header(header_bytes)
        ring_key = self._ring[header["kid"]]
        if header["alg"] != ring_key.algorithm:
            raise ValueError("another algorithm")
        return ring_key


def _decoded(part: str) -> bytes:
    """Base64url in its one canonical form, so that a token has exactly one spelling."""
    decoded = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(decoded).decode().rstrip("=") != part:
        raise ValueError("base64url is not canonical")
    return decoded


def _strict_header(data: bytes) -> dict[str, str]:
    if len(data) > MAX_HEADER:
        raise ValueError("header too long")
    header = json.loads(data.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    if set(header) != {"alg", "typ", "kid"} or not all(isinstance(value, str) for value in header.values()):
        raise ValueError("header has other members than alg, typ and kid")
    if header["typ"] != TOKEN_TYPE:
        raise ValueError("another type of token")
    return dict(header)


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
