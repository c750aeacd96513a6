"""API keys: members manage their own, owners and admins all of their organisation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection

from app import clock
from app.auth.opaque import API_KEY_ID_PREFIX, api_key_hash, new_api_key
from app.auth.permissions import Permission, Role
from app.auth.principal import Caller
from app.db.queries import api_keys as queries
from app.db.tenancy import Tenancy
from app.domain.errors import Forbidden, NotFound, Problem, Problems
from app.domain.jsontext import JSON
from app.services.audit import Audit

KeyRow: TypeAlias = dict[str, Any]
"""A key as stored, without the hash of its secret."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as stored, and its text, which nobody can show again."""

    row: KeyRow
    key: str = field(repr=False)


class ApiKeys:
    """The use cases about API keys."""

    def __init__(self, tenancy: Tenancy, audit: Audit) -> None:
        self._tenancy = tenancy
        self._audit = audit

    async def create(
        self, caller: Caller, name: str, scopes: frozenset[Permission] | None, expires_at: datetime | None
    ) -> NewKey:
        """A key that acts for the caller; without `scopes` it may do what the caller may now.

        Raises Forbidden for a scope that the caller lacks, Problems for an end that is past.
        """
        permissions = caller.principal.permissions
        wanted = permissions if scopes is None else scopes
        if missing := wanted - permissions:
            await self._audit.denied(caller, min(missing))
            lacking = ", ".join(f"'{permission}'" for permission in sorted(missing))
            raise Forbidden(f"A key cannot have more permissions than who creates it; you lack {lacking}")
        if expires_at is not None and expires_at <= clock.now():
            detail = "The key would have expired already: give a time in the future"
            raise Problems(detail, [Problem("invalid_value", detail, "/expires_at")])
        async with self._tenancy.transaction(caller.org_id) as connection:
            created = await add_key(connection, caller.org_id, caller.user_id, name, wanted, expires_at)
            details = key_details(created.row)
            await self._audit.note(connection, caller, "api_key.created", "api_key", created.row["id"], details)
        return created

    async def get(self, caller: Caller, key_id: str) -> KeyRow:
        """A key the caller manages; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return await _managed(connection, caller, key_id)

    async def page(self, caller: Caller, *, before: str | None, limit: int) -> Sequence[KeyRow]:
        """The keys that the caller manages, revoked ones too, the newest first."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            rows = await queries.page(connection, caller.org_id, _whose(caller), before=before, limit=limit)
            return [dict(row) for row in rows]

    async def revoke(self, caller: Caller, key_id: str) -> None:
        """End a key for good; one that is revoked already stays so. Raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            key = await _managed(connection, caller, key_id)
            if await queries.revoke(connection, caller.org_id, key_id):
                details: dict[str, JSON] = {"name": key["name"], "user_id": key["user_id"]}
                await self._audit.note(connection, caller, "api_key.revoked", "api_key", key_id, details)


async def add_key(
    connection: AsyncConnection,
    org_id: str,
    user_id: str,
    name: str,
    scopes: frozenset[Permission],
    expires_at: datetime | None,
) -> NewKey:
    """Make a key in a transaction of its organisation."""
    key_id = clock.new_id(API_KEY_ID_PREFIX)
    text = new_api_key(key_id, clock.new_secret())
    row = {
        "id": key_id,
        "org_id": org_id,
        "user_id": user_id,
        "name": name,
        "secret_hash": api_key_hash(text),
        "scopes": sorted(map(str, scopes)),
        "expires_at": expires_at,
    }
    return NewKey(dict(await queries.add(connection, row)), text)


def key_details(row: KeyRow) -> dict[str, JSON]:
    """What the audit log tells of a new key."""
    expires_at = row["expires_at"]
    return {
        "name": row["name"],
        "scopes": list(row["scopes"]),
        "expires_at": None if expires_at is None else expires_at.isoformat(),
    }


async def _managed(connection: AsyncConnection, caller: Caller, key_id: str) -> KeyRow:
    row = await queries.get(connection, caller.org_id, key_id, _whose(caller))
    if row is None:
        raise NotFound("There is no such API key")
    return dict(row)


def _whose(caller: Caller) -> str | None:
    """The one user whose keys the caller manages; None for everybody's."""
    return None if caller.principal.role in {Role.OWNER, Role.ADMIN} else caller.user_id
