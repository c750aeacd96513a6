"""Refusals of auth. The caller is never told why a credential was refused: the reason is the error's cause, for logs.

StepstreamError
├── Unauthenticated
│   └── RefreshReused     a refresh token was used twice; carries whose it was, for the audit log
└── Throttled
    └── RateExceeded      too many failed sign-ins or requests; carries how the caller stands
"""

from dataclasses import dataclass

from app.domain.errors import Throttled, Unauthenticated

INVALID_TOKEN = "The credential is not valid: it is malformed, expired or revoked. Sign in again or use another key."  # noqa: S105


def refusal(reason: str | Exception) -> Unauthenticated:
    """The one error for every credential that is not accepted; `reason` must hold no secret value."""
    error = Unauthenticated(INVALID_TOKEN, code="invalid_token")
    error.__cause__ = reason if isinstance(reason, Exception) else ValueError(reason)
    return error


class RefreshReused(Unauthenticated):
    """A refresh token came back after its rotation: it was copied, so its whole family is revoked."""

    code = "refresh_reused"

    def __init__(self, org_id: str, user_id: str) -> None:
        super().__init__("This refresh token was used before; every session that came from it is ended. Sign in again.")
        self.org_id = org_id
        self.user_id = user_id


@dataclass(frozen=True, slots=True)
class Standing:
    """How a caller stands with a limit of `limit` times in `period` seconds.

    `remaining` times are free at once, and all of them in `reset` seconds.
    """

    limit_name: str
    limit: int
    period: int
    remaining: int
    reset: int


class RateExceeded(Throttled):
    """One time too many."""

    def __init__(self, detail: str, *, retry_after: int, standing: Standing) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.standing = standing
