"""After a change of the master secret everything is sealed under the new one, whatever cuts the work short."""

from functools import partial
from typing import Any

import pytest

from app.auth.sealing import MasterKeys
from app.db.engines import connect
from app.db.secret_vault import PostgresSecretVault
from app.db.urls import ENGINE
from app.services import secrets as service
from app.services.secrets import bound_to, rotate, unsealed
from tests.database import Database

OLD, NEW, OTHER = (MasterKeys([text * 3]) for text in (b"the-old-master-secret", b"the-new-master", b"a-third-master"))
BOTH = MasterKeys([b"the-new-master" * 3, b"the-old-master-secret" * 3])
COUNT = 7


class Cut(Exception):
    """Stands for a kill."""


@pytest.fixture
async def vault(database: Database) -> Any:
    for org in ("org_a", "org_b"):
        await database.add_tenant(org)
        for number in range(COUNT):
            await put(database, org, f"key{number}", OLD)
    made = PostgresSecretVault(partial(connect, database.role_url(ENGINE), "test"), partial(unsealed, BOTH))
    yield made
    await made.close()


async def put(database: Database, org: str, name: str, keys: MasterKeys) -> None:
    sealed = keys.seal(f"value of {org} {name}", bound_to(org, name, 1))
    await database.execute(
        "INSERT INTO secrets (org_id, name, version, allowed_hosts, ciphertext, wrapped_key, key_id, updated_by) "
        "VALUES ($1, $2, 1, '{a.org}', $3, $4, $5, 'user')",
        org, name, sealed.ciphertext, sealed.wrapped_key, sealed.key_id,
    )  # fmt: skip


async def opened(database: Database, keys: MasterKeys) -> dict[str, str | None]:
    reader = PostgresSecretVault(partial(connect, database.role_url(ENGINE), "test"), partial(unsealed, keys))
    try:
        names = [f"key{number}" for number in range(COUNT)]
        return {
            f"{org} {found.name}": found.value for org in ("org_a", "org_b") for found in await reader.open(org, names)
        }
    finally:
        await reader.close()


async def test_all_are_sealed_under_the_new_master_secret_once(
    vault: PostgresSecretVault, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_BATCH", 3)
    before = await opened(database, BOTH)
    assert before == {name: f"value of {name}" for name in before}
    assert len(before) == 2 * COUNT
    sealed = await database.fetch("SELECT ciphertext FROM secrets ORDER BY org_id, name")
    assert await rotate(BOTH, vault) == (2 * COUNT, 0)
    assert await opened(database, NEW) == before
    assert set((await opened(database, OLD)).values()) == {None}
    assert await database.fetch("SELECT ciphertext FROM secrets ORDER BY org_id, name") == sealed, "never opened"
    assert await rotate(BOTH, vault) == (0, 0), "once is enough"


@pytest.mark.parametrize("after", [0, 1, 5, 13])
async def test_a_kill_in_the_middle_loses_nothing_and_the_rest_is_done_next_time(
    after: int, vault: PostgresSecretVault, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrap, left = vault.rewrap, after

    async def cut_short(*arguments: Any) -> None:
        nonlocal left
        if left == 0:
            raise Cut
        left -= 1
        await rewrap(*arguments)

    before = await opened(database, BOTH)
    monkeypatch.setattr(vault, "rewrap", cut_short)
    with pytest.raises(Cut):
        await rotate(BOTH, vault)
    assert await opened(database, BOTH) == before, "running processes know both"
    monkeypatch.setattr(vault, "rewrap", rewrap)
    assert await rotate(BOTH, vault) == (2 * COUNT - after, 0)
    assert await opened(database, NEW) == before


async def test_one_that_no_key_opens_is_counted_and_left_alone(
    vault: PostgresSecretVault, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_BATCH", 2)
    await database.execute("DELETE FROM secrets WHERE org_id = 'org_b'")
    await put(database, "org_b", "key3", OTHER)
    assert await rotate(BOTH, vault) == (COUNT, 1)
    assert (await opened(database, OTHER))["org_b key3"] == "value of org_b key3"
