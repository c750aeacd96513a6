"""Secrets: made, replaced, deleted; their values go in and never come out."""

from collections.abc import Sequence
from typing import TypeAlias

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth.principal import Caller
from app.auth.sealing import MasterKeys, Sealed, Unreadable
from app.db.queries import secrets as queries
from app.db.secret_vault import PostgresSecretVault, SealedRow
from app.db.tenancy import Tenancy
from app.domain.compiled import CompiledStep, CompiledWorkflow
from app.domain.errors import Conflict, NotFound, Problem
from app.domain.jsontext import JSON
from app.domain.secrets import SecretUse, host_allowed, not_for
from app.services.audit import Audit

SecretRow: TypeAlias = RowMapping
"""The newest version of a secret, without what is sealed."""

_SHOWS_ITS_END = 16
"""Characters: of a value that long, the last four do not help to guess it."""
_BATCH = 100


class Secrets:
    """The use cases about secrets."""

    def __init__(self, tenancy: Tenancy, keys: MasterKeys, audit: Audit) -> None:
        self._tenancy = tenancy
        self._keys = keys
        self._audit = audit

    async def create(self, caller: Caller, name: str, value: str, allowed_hosts: Sequence[str]) -> SecretRow:
        """A new secret; raises Conflict if there is one of that name."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            if await queries.lock(connection, caller.org_id, name):
                raise Conflict("There is a secret of this name already; PUT replaces it", code="already_exists")
            row = await self._add(connection, caller, name, 1, value, allowed_hosts)
            await self._note(connection, caller, "secret.created", row)
        return row

    async def replace(self, caller: Caller, name: str, value: str, allowed_hosts: Sequence[str]) -> SecretRow:
        """A new version. Runs use it within seconds. Raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            version = await queries.lock(connection, caller.org_id, name)
            if not version:
                raise _nothing()
            row = await self._add(connection, caller, name, version + 1, value, allowed_hosts)
            await self._note(connection, caller, "secret.replaced", row)
        return row

    async def get(self, caller: Caller, name: str) -> SecretRow:
        """One secret; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return await self._found(connection, caller, name)

    async def page(self, caller: Caller, *, after: str | None, limit: int) -> Sequence[SecretRow]:
        """Secrets by name."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return await queries.page(connection, caller.org_id, after=after or "", limit=limit)

    async def delete(self, caller: Caller, name: str) -> None:
        """Forget a secret with all its versions; attempts that begin later fail. Raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            await queries.lock(connection, caller.org_id, name)
            row = await self._found(connection, caller, name)
            await queries.remove(connection, caller.org_id, name)
            await self._note(connection, caller, "secret.deleted", row)

    async def problems(self, org_id: str, workflow: CompiledWorkflow) -> list[Problem]:
        """What keeps a workflow's steps from using its secrets now: one that is not there, or is for other hosts."""
        names = workflow.secret_names
        if not names:
            return []
        async with self._tenancy.transaction(org_id) as connection:
            rows = {row["name"]: row for row in await queries.named(connection, org_id, names)}
        return [
            Problem(*problem, f"/steps/{index}/with{use.pointer}")
            for index, definition in enumerate(workflow.definition.steps)
            for use in workflow.by_id[definition.id].secrets
            if (problem := _problem(workflow.by_id[definition.id], use, rows.get(use.reference.name)))
        ]

    async def _add(
        self, connection: AsyncConnection, caller: Caller, name: str, version: int, value: str, hosts: Sequence[str]
    ) -> SecretRow:
        sealed = self._keys.seal(value, bound_to(caller.org_id, name, version))
        row = {
            "org_id": caller.org_id,
            "name": name,
            "version": version,
            "allowed_hosts": list(dict.fromkeys(hosts)),
            "last4": value[-4:] if len(value) >= _SHOWS_ITS_END and value[-4:].isprintable() else None,
            "ciphertext": sealed.ciphertext,
            "wrapped_key": sealed.wrapped_key,
            "key_id": sealed.key_id,
            "updated_by": caller.user_id,
        }
        return await queries.add_version(connection, row)

    async def _found(self, connection: AsyncConnection, caller: Caller, name: str) -> SecretRow:
        row = await queries.get(connection, caller.org_id, name)
        if row is None:
            raise _nothing()
        return row

    async def _note(self, connection: AsyncConnection, caller: Caller, action: str, row: SecretRow) -> None:
        details: dict[str, JSON] = {"version": row["version"], "allowed_hosts": list(row["allowed_hosts"])}
        await self._audit.note(connection, caller, action, "secret", row["name"], details)


def bound_to(org_id: str, name: str, version: int) -> str:
    """What a sealed value belongs to."""
    return f"{org_id}|{name}|{version}"


def unsealed(keys: MasterKeys, row: SealedRow) -> str | None:
    """The value of a stored version, None if none of the keys opens it."""
    try:
        return keys.open(_sealed(row), bound_to(row.org_id, row.name, row.version))
    except Unreadable:
        return None


async def rotate(keys: MasterKeys, vault: PostgresSecretVault) -> tuple[int, int]:
    """Wrap the keys of all stored versions with the current master key: how many were, and how many cannot be.

    Each is done by itself, so that a cut leaves nothing half done; whoever repeats it goes on where it ended.
    """
    done, lost, last = 0, 0, None
    while rows := await vault.stale(keys.current_id, last, _BATCH):
        for row in rows:
            try:
                sealed = keys.rewrapped(_sealed(row), bound_to(row.org_id, row.name, row.version))
            except Unreadable:
                lost += 1
                continue
            await vault.rewrap(row, sealed.wrapped_key, sealed.key_id)
            done += 1
        last = rows[-1]
    return done, lost


def _problem(step: CompiledStep, use: SecretUse, row: SecretRow | None) -> tuple[str, str] | None:
    name = use.reference.name
    if row is None:
        return "unknown_reference", f"There is no secret '{name}' in this organisation: make it before a run needs it"
    target = None if step.spec.sends_to is None else step.spec.sends_to(step.definition.config)
    if target is None or host_allowed(row["allowed_hosts"], *target):
        return None
    return "secret_host_not_allowed", not_for(name, target[0], row["allowed_hosts"])


def _sealed(row: SealedRow) -> Sealed:
    return Sealed(row.ciphertext, row.wrapped_key, row.key_id)


def _nothing() -> NotFound:
    return NotFound("There is no such secret")
