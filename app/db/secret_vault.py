"""Sealed secrets, as the engine reads them, on a connection of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import asyncpg

from app.db.link import PIN_PLANS, Connect, Link
from app.domain.secrets import StoredSecret

_COLUMNS = "org_id, name, version, allowed_hosts, ciphertext, wrapped_key, key_id"
READ = f"SELECT {_COLUMNS} FROM secrets WHERE org_id = $1 AND name = ANY($2) ORDER BY name, version DESC"  # noqa: S608
NOTE_USE = """
UPDATE secrets s SET last_used_at = clock_timestamp() WHERE s.org_id = $1 AND s.name = ANY($2)
   AND s.version = (SELECT max(version) FROM secrets n WHERE n.org_id = s.org_id AND n.name = s.name)"""
STALE = f"""
SELECT {_COLUMNS} FROM secrets WHERE key_id <> $1 AND (org_id, name, version) > ($2, $3, $4)
 ORDER BY org_id, name, version LIMIT $5"""  # noqa: S608
REWRAP = """
UPDATE secrets SET wrapped_key = $5, key_id = $6 WHERE org_id = $1 AND name = $2 AND version = $3 AND key_id = $4"""


@dataclass(frozen=True, slots=True)
class SealedRow:
    """One version of a secret as it is stored."""

    org_id: str
    name: str
    version: int
    allowed_hosts: tuple[str, ...]
    ciphertext: bytes
    wrapped_key: bytes
    key_id: str


class PostgresSecretVault:
    """Implements `app.engine.ports.SecretVault`. `unseal` gives the value of a row, None if no key opens it."""

    def __init__(self, connect: Connect, unseal: Callable[[SealedRow], str | None]) -> None:
        self._link = Link(connect, PIN_PLANS)
        self._unseal = unseal

    async def close(self) -> None:
        await self._link.close()

    async def open(self, org_id: str, names: Sequence[str]) -> Sequence[StoredSecret]:
        versions: dict[str, list[SealedRow]] = {}
        for row in map(_sealed, await self._link.read(READ, org_id, names)):
            versions.setdefault(row.name, []).append(row)
        return [self._opened(newest, former) for newest, *former in versions.values()]

    async def note_use(self, org_id: str, names: Sequence[str]) -> None:
        await self._link.fetch(NOTE_USE, org_id, names)

    async def stale(self, key_id: str, after: SealedRow | None, limit: int) -> Sequence[SealedRow]:
        """Versions behind `after` whose key another master key wraps, of all organisations."""
        position = ("", "", 0) if after is None else (after.org_id, after.name, after.version)
        return [_sealed(row) for row in await self._link.read(STALE, key_id, *position, limit)]

    async def rewrap(self, row: SealedRow, wrapped_key: bytes, key_id: str) -> None:
        """Replace the wrapped key, unless somebody else did."""
        await self._link.fetch(REWRAP, row.org_id, row.name, row.version, row.key_id, wrapped_key, key_id)

    def _opened(self, newest: SealedRow, former: Sequence[SealedRow]) -> StoredSecret:
        known = tuple(value for value in map(self._unseal, former) if value is not None)
        return StoredSecret(newest.name, newest.allowed_hosts, self._unseal(newest), known)


def _sealed(row: asyncpg.Record) -> SealedRow:
    return SealedRow(**{**row, "allowed_hosts": tuple(row["allowed_hosts"])})
