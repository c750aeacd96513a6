"""Signing in and out, who somebody is, and the first organisation, user and key of a new installation.

Sessions are noted in the audit log by the auth role: there is no caller yet whose organisation could be bound.
"""

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from app import clock
from app.auth.errors import RefreshReused, refusal
from app.auth.passwords import Passwords
from app.auth.permissions import ROLE_PERMISSIONS, Role
from app.auth.principal import Caller
from app.auth.sessions import MAX_EMAIL, Sessions, SignedIn, normal_email
from app.db.credentials import Credentials
from app.db.queries import audit as audit_queries
from app.db.queries import identity as queries
from app.db.tenancy import Tenancy
from app.domain.errors import (
    NotFound,
    Problem,
    Problems,
    StepstreamError,
    Unauthenticated,
    Unavailable,
    clean_text,
)
from app.domain.jsontext import JSON, encode
from app.services.api_keys import add_key, key_details
from app.settings import SettingsError, write_private

FIRST_ORG = "org_demo"
FIRST_USER = "user_admin"
FIRST_EMAIL = "admin@stepstream.local"
PASSWORD_FILE = "admin-password"  # noqa: S105 - a file name
MIN_PASSWORD = 8

log = structlog.get_logger("identity")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a request without a caller comes from; empty for what is done on the machine itself."""

    ip_address: str | None = None
    user_agent: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class FirstAdmin:
    """`created` tells whether it was this start that made the account; the file has the password it was made with."""

    email: str
    password_file: Path
    created: bool


class Identity:
    """The use cases about people and organisations."""

    def __init__(self, *, sessions: Sessions, passwords: Passwords, credentials: Credentials, tenancy: Tenancy) -> None:
        self._sessions = sessions
        self._passwords = passwords
        self._credentials = credentials
        self._tenancy = tenancy
        self._notes: set[asyncio.Task[None]] = set()

    async def sign_in(
        self,
        source: Source,
        email: str,
        password: str,
        org_id: str | None = None,
        scopes: frozenset[str] | None = None,
    ) -> SignedIn:
        """A new session; see `Sessions.sign_in` for what it raises."""
        try:
            signed_in = await self._sessions.sign_in(
                email, password, org_id, ip_address=source.ip_address, scopes=scopes
            )
        except Unauthenticated as error:
            self._note_failure_later(source, normal_email(email), error)
            raise
        await self._renew_hash(normal_email(email), password)
        owner = signed_in.principal
        await self._note(_row("auth.signed_in", owner.org_id, owner.user_id, source))
        return signed_in

    async def refresh(self, source: Source, refresh_token: str) -> SignedIn:
        """The next tokens of a session; see `Sessions.refresh` for what it raises."""
        try:
            return await self._sessions.refresh(refresh_token)
        except RefreshReused as error:
            await self._note_refusal(_row("auth.refresh_reused", error.org_id, error.user_id, source, error=error))
            raise

    async def sign_out(self, source: Source, refresh_token: str) -> None:
        """End the session of a refresh token; nothing happens if there is none."""
        owner = await self._sessions.sign_out(refresh_token)
        if owner is not None:
            await self._note(_row("auth.signed_out", owner.org_id, owner.user_id, source))

    async def me(self, caller: Caller) -> dict[str, Any]:
        """The caller as a member: `user_id, email, user_name, org_id, org_name`."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await queries.member(connection, caller.org_id, caller.user_id)
        if row is None:
            raise refusal("the user is no longer a member of the organisation")
        return dict(row)

    async def close(self) -> None:
        """Wait for the audit rows that are still being written."""
        await asyncio.gather(*self._notes, return_exceptions=True)

    async def add_organization(self, name: str, organization_id: str | None = None) -> str:
        """The id of a new organisation; raises Conflict if it exists."""
        new_id = organization_id or clock.new_id("org")
        async with self._credentials.transaction() as connection:
            await queries.add_organization(connection, new_id, name)
            await audit_queries.add(connection, _organization_created(new_id, name))
        return new_id

    async def add_user(self, email: str, name: str, password: str) -> str:
        """The id of a new user, who can sign in once a member somewhere; raises Conflict if the e-mail is taken."""
        if "@" not in email or len(email) > MAX_EMAIL:
            raise _invalid("/email", f"An e-mail address has an @ and at most {MAX_EMAIL} characters")
        if len(password) < MIN_PASSWORD:
            raise _invalid("/password", f"A password has at least {MIN_PASSWORD} characters")
        user_id = clock.new_id("user")
        password_hash = await self._passwords.hash(password)
        async with self._credentials.transaction() as connection:
            await queries.add_user(connection, user_id, normal_email(email), name, password_hash)
        return user_id

    async def add_membership(self, org_id: str, user_id: str, role: Role) -> None:
        """Let a user act in an organisation; raises Conflict for a member, Problems for an unknown id."""
        details: dict[str, JSON] = {"role": role.value}
        async with self._credentials.transaction() as connection:
            await queries.add_membership(connection, org_id, user_id, role.value)
            row = _row("member.added", org_id, None, Source(), resource=("user", user_id), details=details)
            await audit_queries.add(connection, row)

    async def ensure_first_admin(self, data_dir: Path) -> FirstAdmin:
        """On a database without organisations, make the first one and its owner.

        The password is in the file before the account exists, so no crash leaves an account nobody can enter; a file
        that is there already says what the password becomes. Of several first starts at once one does it. Raises
        SettingsError if the file cannot be written or read.
        """
        path = data_dir / PASSWORD_FILE
        async with self._credentials.transaction() as connection:
            await queries.lock_first_start(connection)
            missing = not await queries.any_organization(connection)
            if missing:
                password = await asyncio.to_thread(_password_from, path)
                password_hash = await self._passwords.hash(password)
                await queries.add_organization(connection, FIRST_ORG, "Demo organisation")
                await queries.add_user(connection, FIRST_USER, FIRST_EMAIL, "Administrator", password_hash)
                await queries.add_membership(connection, FIRST_ORG, FIRST_USER, Role.OWNER.value)
                await audit_queries.add(connection, _organization_created(FIRST_ORG, "Demo organisation"))
        return FirstAdmin(FIRST_EMAIL, path, created=missing)

    async def issue_local_key(self, ttl_seconds: float) -> str:
        """An API key of the first admin, for who has the machine; raises NotFound if there is no such account."""
        state = await self._credentials.session_state(FIRST_USER, FIRST_ORG)
        if state is None or state.disabled or state.role is None:
            raise NotFound(f"There is no {FIRST_USER} in {FIRST_ORG} to act for: create an API key in the API instead")
        expires_at = clock.now() + timedelta(seconds=ttl_seconds)
        scopes = ROLE_PERMISSIONS[Role(state.role)]
        async with self._tenancy.transaction(FIRST_ORG) as connection:
            created = await add_key(connection, FIRST_ORG, FIRST_USER, "stepstream token", scopes, expires_at)
            key = ("api_key", str(created.row["id"]))
            details = key_details(created.row)
            row = _row("api_key.created", FIRST_ORG, FIRST_USER, Source(), resource=key, details=details)
            await audit_queries.add(connection, row)
        return created.key

    async def _renew_hash(self, email: str, password: str) -> None:
        """Only now is the password known that today's parameters need for a new hash."""
        with suppress(Unavailable):
            user = await self._credentials.user_by_email(email)
            if user is None or user.password_hash is None or not self._passwords.needs_rehash(user.password_hash):
                return
            new = await self._passwords.hash(password)
            async with self._credentials.transaction() as connection:
                await queries.replace_password_hash(connection, user.id, user.password_hash, new)

    async def _note(self, row: Mapping[str, Any]) -> None:
        async with self._credentials.transaction() as connection:
            await audit_queries.add(connection, dict(row))

    async def _note_refusal(self, row: Mapping[str, Any]) -> None:
        """A database that does not answer never turns a refusal into a 503."""
        try:
            await self._note(row)
        except Unavailable as error:
            log.warning("refusal_not_audited", action=row["action"], reason=error.detail)

    def _note_failure_later(self, source: Source, email: str, error: StepstreamError) -> None:
        # The refusal does not wait for it: its time must not tell which accounts exist.
        task = asyncio.create_task(self._note_failure(source, email, error))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _note_failure(self, source: Source, email: str, error: StepstreamError) -> None:
        """One row in the user's first organisation, none for an e-mail that nobody has."""
        try:
            async with self._credentials.transaction() as connection:
                owner = await queries.first_membership(connection, email)
                if owner is not None:
                    row = _row("auth.sign_in_failed", owner["org_id"], owner["user_id"], source, error=error)
                    await audit_queries.add(connection, row)
        except Unavailable as unavailable:
            log.warning("refusal_not_audited", action="auth.sign_in_failed", reason=unavailable.detail)


def _row(
    action: str,
    org_id: str,
    user_id: str | None,
    source: Source,
    *,
    resource: tuple[str, str] | None = None,
    details: dict[str, JSON] | None = None,
    error: StepstreamError | None = None,
) -> dict[str, Any]:
    """An audit row; without a `resource` it is about the user."""
    resource_type, resource_id = resource or ("user", user_id)
    return {
        "id": clock.new_id("audit"),
        "org_id": org_id,
        "user_id": user_id,
        "action": action,
        "resource_type": resource_type,
        "resource_id": resource_id,
        "details": encode(dict(details or {})),
        "ip_address": source.ip_address,
        "user_agent": source.user_agent,
        "request_id": source.request_id,
        "success": error is None,
        "error_code": error.error_code if error else None,
        "error_message": clean_text(error.detail) if error else None,
    }


def _organization_created(org_id: str, name: str) -> dict[str, Any]:
    resource = ("organization", org_id)
    return _row("organization.created", org_id, None, Source(), resource=resource, details={"name": name})


def _invalid(pointer: str, detail: str) -> Problems:
    return Problems(detail, [Problem("invalid_value", detail, pointer)])


def _password_from(path: Path) -> str:
    """The password in the file; if there is none, a random one, which is on the disk when this returns."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists() and not path.read_text().strip():
            path.unlink()  # a crash between creating and writing it
        write_private(path, clock.new_secret(18))
        _flush(path)
        _flush(path.parent)
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The admin's first password cannot be kept in {path}: {error}. Make it a file that this user may write"
        ) from error


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
