"""The credential store: what auth reads and writes across organisations, before one is known, as the auth role.

Whatever changes refresh tokens first takes the lock of their family. Row locks alone would let a token escape: its
rotation, while a revocation waits for it, inserts a successor that the waiting statement's snapshot does not show.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, and_, delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.errors import translated
from app.db.tables import api_keys, memberships, refresh_tokens, stream_tickets, users
from app.domain.errors import Unavailable
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

_USER = [
    users.c.id, users.c.email, users.c.name, users.c.password_hash, users.c.token_version, users.c.disabled,
]  # fmt: skip
_KEY = [
    api_keys.c.id.label("key_id"), api_keys.c.org_id, api_keys.c.user_id, api_keys.c.secret_hash, api_keys.c.scopes,
    api_keys.c.expires_at, api_keys.c.revoked_at, api_keys.c.last_used_at, memberships.c.role,
    users.c.disabled.label("user_disabled"),
]  # fmt: skip


class Credentials:
    """Implements `app.engine.credentials.CredentialStore`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction of the auth role, which sees every organisation; for `app.db.queries.identity`."""
        with translated():
            async with self._engine.begin() as connection:
                yield connection

    async def user_by_email(self, email: str) -> UserRecord | None:
        row = await self._first(select(*_USER).where(func.lower(users.c.email) == email))
        return None if row is None else UserRecord(**row)

    async def memberships(self, user_id: str) -> list[MembershipRecord]:
        columns = memberships.c.org_id, memberships.c.role, memberships.c.created_at
        query = select(*columns).where(memberships.c.user_id == user_id)
        async with self.transaction() as connection:
            rows = await connection.execute(query.order_by(memberships.c.created_at, memberships.c.org_id))
            return [MembershipRecord(**row) for row in rows.mappings()]

    async def session_state(self, user_id: str, org_id: str) -> SessionState | None:
        membership = and_(memberships.c.user_id == users.c.id, memberships.c.org_id == org_id)
        query = (
            select(users.c.token_version, users.c.disabled, memberships.c.role)
            .select_from(users.outerjoin(memberships, membership))
            .where(users.c.id == user_id)
        )
        row = await self._first(query)
        return None if row is None else SessionState(**row)

    async def api_key(self, key_id: str) -> ApiKeyRecord | None:
        membership = and_(memberships.c.user_id == users.c.id, memberships.c.org_id == api_keys.c.org_id)
        query = (
            select(*_KEY)
            .select_from(api_keys.join(users, users.c.id == api_keys.c.user_id).outerjoin(memberships, membership))
            .where(api_keys.c.id == key_id)
        )
        row = await self._first(query)
        return None if row is None else ApiKeyRecord(**dict(row) | {"scopes": _set(row["scopes"])})

    async def touch_api_key(self, key_id: str) -> None:
        async with self.transaction() as connection:
            await connection.execute(
                update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=func.clock_timestamp())
            )

    async def add_refresh(self, record: RefreshRecord) -> None:
        async with self.transaction() as connection:
            await _insert_refresh(connection, record)

    async def take_refresh(
        self, token_id: str, secret_hash: str, successor: RefreshSuccessor, now: datetime
    ) -> RefreshOutcome:
        try:
            return await self._rotated(token_id, secret_hash, successor, now)
        except Unavailable:  # only its answer may have been lost, and who came with the token would seem a thief
            return await self._rotated(token_id, secret_hash, successor, now)

    async def _rotated(
        self, token_id: str, secret_hash: str, successor: RefreshSuccessor, now: datetime
    ) -> RefreshOutcome:
        """Idempotent by its successor, whose id nobody else knows."""
        async with self.transaction() as connection:
            token = await _locked_refresh(connection, token_id, secret_hash)
            if token is None:
                return Unknown()
            if token["used_at"] is not None:
                made = await _locked_refresh(connection, successor.token_id, successor.secret_hash)
                if made is not None and made["revoked_at"] is None:
                    return Rotated(_refresh_record(made))
                await _revoke_family(connection, token["family_id"])
                return Reused(SessionOwner(token["org_id"], token["user_id"]))
            if token["revoked_at"] is not None or token["expires_at"] <= now:
                return Unknown()
            await connection.execute(
                update(refresh_tokens).where(refresh_tokens.c.id == token_id).values(used_at=func.clock_timestamp())
            )
            rotated = replace(_refresh_record(token), **asdict(successor))
            await _insert_refresh(connection, rotated)
            return Rotated(rotated)

    async def revoke_refresh_family(self, token_id: str, secret_hash: str) -> SessionOwner | None:
        async with self.transaction() as connection:
            token = await _locked_refresh(connection, token_id, secret_hash)
            if token is None:
                return None
            await _revoke_family(connection, token["family_id"])
            return SessionOwner(token["org_id"], token["user_id"])

    async def add_ticket(self, record: TicketRecord) -> None:
        row = asdict(record) | {"permissions": sorted(record.permissions)}
        row["secret_hash"] = row.pop("ticket_hash")
        async with self.transaction() as connection:
            await connection.execute(insert(stream_tickets).values(**row))

    async def take_ticket(self, ticket_hash: str, now: datetime) -> TicketRecord | None:
        query = (
            delete(stream_tickets)
            .where(stream_tickets.c.secret_hash == ticket_hash, stream_tickets.c.expires_at > now)
            .returning(stream_tickets)
        )
        row = await self._first(query)
        if row is None:
            return None
        found = dict(row) | {"permissions": frozenset(row["permissions"])}
        found["ticket_hash"] = found.pop("secret_hash")
        return TicketRecord(**found)

    async def _first(self, statement: Any) -> RowMapping | None:
        async with self.transaction() as connection:
            return (await connection.execute(statement)).mappings().first()


async def _locked_refresh(connection: AsyncConnection, token_id: str, secret_hash: str) -> RowMapping | None:
    wanted = (refresh_tokens.c.id == token_id, refresh_tokens.c.secret_hash == secret_hash)
    family = func.hashtextextended(literal("refresh family ").concat(refresh_tokens.c.family_id), 0)
    if (await connection.execute(select(func.pg_advisory_xact_lock(family)).where(*wanted))).first() is None:
        return None
    # Only now: who held the lock before may have changed the row.
    return (await connection.execute(select(refresh_tokens).where(*wanted).with_for_update())).mappings().first()


async def _insert_refresh(connection: AsyncConnection, record: RefreshRecord) -> None:
    row = asdict(record) | {"scopes": None if record.scopes is None else sorted(record.scopes)}
    row["id"] = row.pop("token_id")
    await connection.execute(insert(refresh_tokens).values(**row))


async def _revoke_family(connection: AsyncConnection, family_id: str) -> None:
    await connection.execute(
        update(refresh_tokens)
        .where(refresh_tokens.c.family_id == family_id, refresh_tokens.c.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
    )


def _refresh_record(row: RowMapping) -> RefreshRecord:
    return RefreshRecord(
        token_id=row["id"],
        family_id=row["family_id"],
        secret_hash=row["secret_hash"],
        org_id=row["org_id"],
        user_id=row["user_id"],
        token_version=row["token_version"],
        scopes=_set(row["scopes"]),
        expires_at=row["expires_at"],
    )


def _set(values: list[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)
