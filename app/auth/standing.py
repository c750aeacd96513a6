"""Whether a credential still stands: its user is enabled, a member of the organisation, and has not ended it."""

from datetime import datetime

from app.auth.errors import refusal
from app.auth.permissions import Role
from app.engine.credentials import ApiKeyRecord, SessionState


def session_role(state: SessionState | None, token_version: int | None) -> Role:
    """The user's role now; raises Unauthenticated if the session has ended."""
    if state is None:
        raise refusal("the user does not exist")
    if state.disabled:
        raise refusal("the user is disabled")
    if state.token_version != token_version:
        raise refusal("the user's token version has changed")
    if state.role is None:
        raise refusal("the user is not a member of the organisation")
    return Role(state.role)


def api_key_role(key: ApiKeyRecord | None, now: datetime) -> Role:
    """The creator's role now; raises Unauthenticated if the key has ended."""
    if key is None:
        raise refusal("the key does not exist")
    if key.revoked_at is not None:
        raise refusal("the key is revoked")
    if key.expires_at is not None and key.expires_at <= now:
        raise refusal("the key is expired")
    if key.user_disabled:
        raise refusal("the key's creator is disabled")
    if key.role is None:
        raise refusal("the key's creator is not a member of the organisation")
    return Role(key.role)
