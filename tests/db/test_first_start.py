"""A new installation has one organisation with one owner, whose password is on the disk before the account exists."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app import clock
from app.auth.authenticator import Authenticator
from app.auth.passwords import Passwords
from app.auth.permissions import ROLE_PERMISSIONS, Role
from app.auth.sessions import Sessions
from app.auth.throttle import SignInThrottle
from app.auth.tokens import AccessTokens
from app.db.credentials import Credentials
from app.db.engines import api_engine, auth_engine
from app.db.tenancy import Tenancy
from app.db.urls import API, AUTH
from app.domain.errors import Conflict, NotFound, Problems, Unauthenticated
from app.services.identity import FIRST_EMAIL, FIRST_ORG, FIRST_USER, PASSWORD_FILE, Identity, Source
from app.settings import SettingsError
from tests.database import Database


class Process:
    """What one process of a deployment has."""

    def __init__(self, database: Database, stack: AsyncExitStack) -> None:
        auth, api = auth_engine(database.role_url(AUTH)), api_engine(database.role_url(API), pool_size=2)
        stack.push_async_callback(auth.dispose)
        stack.push_async_callback(api.dispose)
        credentials = Credentials(auth)
        tokens = AccessTokens(b"a master secret of thirty-two bytes")
        passwords = Passwords(memory_kib=64, time_cost=1)
        sessions = Sessions(credentials, tokens, passwords, SignInThrottle())
        self.authenticator = Authenticator(credentials, tokens)
        self.identity = Identity(sessions=sessions, passwords=passwords, credentials=credentials, tenancy=Tenancy(api))
        stack.push_async_callback(self.identity.close)


@pytest.fixture
async def processes(database: Database) -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        yield [Process(database, stack) for _ in range(4)]


@pytest.fixture
def identity(processes: list[Process]) -> Identity:
    return processes[0].identity


async def counts(database: Database) -> list[Any]:
    tables = "organizations", "users", "memberships"
    return [await database.fetchval(f"SELECT count(*) FROM {table}") for table in tables]


async def test_the_first_start_makes_an_owner_who_can_sign_in(
    identity: Identity, database: Database, tmp_path: Path
) -> None:
    first = await identity.ensure_first_admin(tmp_path / "data")
    assert (first.email, first.created) == (FIRST_EMAIL, True)
    assert first.password_file == tmp_path / "data" / PASSWORD_FILE
    assert stat.S_IMODE(first.password_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.password_file.parent.stat().st_mode) == 0o700
    password = first.password_file.read_text()
    assert len(password) >= 20
    principal = (await identity.sign_in(Source(), FIRST_EMAIL, password)).principal
    assert (principal.org_id, principal.user_id, principal.role) == (FIRST_ORG, FIRST_USER, Role.OWNER)
    audited = await database.fetch("SELECT action FROM audit_logs WHERE org_id = $1 ORDER BY id", FIRST_ORG)
    assert [row["action"] for row in audited] == ["organization.created", "auth.signed_in"]


async def test_a_later_start_changes_nothing(identity: Identity, database: Database, tmp_path: Path) -> None:
    await identity.ensure_first_admin(tmp_path)
    await database.execute("UPDATE users SET password_hash = 'changed'")
    (tmp_path / PASSWORD_FILE).unlink()
    again = await identity.ensure_first_admin(tmp_path)
    assert (again.created, again.password_file.exists()) == (False, False)
    assert await database.fetchval("SELECT password_hash FROM users") == "changed"
    assert await counts(database) == [1, 1, 1]


async def test_where_an_organisation_exists_no_account_is_made(
    identity: Identity, database: Database, tmp_path: Path
) -> None:
    await identity.add_organization("Ours", "org_ours")
    assert not (await identity.ensure_first_admin(tmp_path)).created
    assert await counts(database) == [1, 0, 0]
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - an async function may not use Path for it


async def test_of_first_starts_at_once_one_makes_the_account_and_its_password_is_the_one_kept(
    processes: list[Process], database: Database, tmp_path: Path
) -> None:
    directories = [tmp_path / str(number) for number in range(4)]
    firsts = await asyncio.gather(
        *(
            process.identity.ensure_first_admin(directory)
            for process, directory in zip(processes, directories, strict=True)
        )
    )
    assert sorted(first.created for first in firsts) == [False, False, False, True]
    assert await counts(database) == [1, 1, 1]
    (kept,) = [first.password_file for first in firsts if first.password_file.exists()]
    assert await processes[0].identity.sign_in(Source(), FIRST_EMAIL, kept.read_text())


@pytest.mark.parametrize("text", ["chosen by the operator\n", "left by a start that crashed"])
async def test_a_password_that_is_in_the_file_already_is_the_one(identity: Identity, tmp_path: Path, text: str) -> None:
    (tmp_path / PASSWORD_FILE).write_text(text)
    await identity.ensure_first_admin(tmp_path)
    assert (tmp_path / PASSWORD_FILE).read_text() == text
    assert await identity.sign_in(Source(), FIRST_EMAIL, text.strip())


async def test_an_empty_file_is_no_password(identity: Identity, tmp_path: Path) -> None:
    (tmp_path / PASSWORD_FILE).write_text("\n")
    await identity.ensure_first_admin(tmp_path)
    password = (tmp_path / PASSWORD_FILE).read_text()
    assert len(password) >= 20
    with pytest.raises(Unauthenticated):
        await identity.sign_in(Source(), FIRST_EMAIL, "")
    assert await identity.sign_in(Source(), FIRST_EMAIL, password)


async def test_no_account_is_made_whose_password_cannot_be_kept(
    identity: Identity, database: Database, tmp_path: Path
) -> None:
    (tmp_path / PASSWORD_FILE).mkdir()
    with pytest.raises(SettingsError, match=PASSWORD_FILE):
        await identity.ensure_first_admin(tmp_path)
    assert await counts(database) == [0, 0, 0]


async def test_a_crash_before_the_commit_leaves_a_password_that_the_next_start_uses(
    identity: Identity, database: Database, tmp_path: Path
) -> None:
    await database.execute("ALTER TABLE memberships ADD CONSTRAINT crash CHECK (role <> 'owner')")
    with pytest.raises(Exception, match="crash"):
        await identity.ensure_first_admin(tmp_path)
    assert await counts(database) == [0, 0, 0]
    password = (tmp_path / PASSWORD_FILE).read_text()
    await database.execute("ALTER TABLE memberships DROP CONSTRAINT crash")
    assert (await identity.ensure_first_admin(tmp_path)).created
    assert await identity.sign_in(Source(), FIRST_EMAIL, password)


async def test_a_local_key_is_the_first_admins_for_a_while_and_on_record(
    processes: list[Process], database: Database, tmp_path: Path
) -> None:
    identity = processes[0].identity
    await identity.ensure_first_admin(tmp_path)
    key = await identity.issue_local_key(3600)
    principal = await processes[1].authenticator.authenticate(f"Bearer {key}")
    assert (principal.org_id, principal.user_id, principal.kind) == (FIRST_ORG, FIRST_USER, "api_key")
    assert principal.permissions == ROLE_PERMISSIONS[Role.OWNER]
    assert principal.expires_at is not None
    assert 3500 < (principal.expires_at - clock.now()).total_seconds() <= 3600
    (row,) = await database.fetch("SELECT * FROM audit_logs WHERE action = 'api_key.created'")
    assert (row["user_id"], row["resource_id"], row["success"]) == (FIRST_USER, principal.credential_id, True)
    assert key.rpartition("_")[2] not in str(row)


async def test_there_is_no_local_key_without_the_first_admin(identity: Identity, database: Database) -> None:
    with pytest.raises(NotFound, match=FIRST_USER):
        await identity.issue_local_key(60)
    await identity.add_organization("Demo", FIRST_ORG)
    with pytest.raises(NotFound, match=FIRST_USER):
        await identity.issue_local_key(60)
    assert await database.fetchval("SELECT count(*) FROM api_keys") == 0


async def test_people_and_organisations_are_added_once(identity: Identity) -> None:
    org_id = await identity.add_organization("Ours")
    assert await identity.add_organization("Named", "org_named") == "org_named"
    with pytest.raises(Conflict):
        await identity.add_organization("Twin", "org_named")
    user_id = await identity.add_user(" Ann@Example.com", "Ann", "long enough")
    with pytest.raises(Conflict):
        await identity.add_user("ann@example.COM", "Twin", "long enough")
    await identity.add_membership(org_id, user_id, Role.MEMBER)
    with pytest.raises(Conflict):
        await identity.add_membership(org_id, user_id, Role.OWNER)
    with pytest.raises(Problems, match="does not exist"):
        await identity.add_membership("org_nowhere", user_id, Role.OWNER)
    signed_in = await identity.sign_in(Source(), "ann@example.com", "long enough")
    assert (signed_in.principal.org_id, signed_in.principal.role) == (org_id, Role.MEMBER)


@pytest.mark.parametrize(
    ("email", "password"), [("ann", "long enough"), ("a@b", "short"), ("a@" + "b" * 320, "long enough")]
)
async def test_what_nobody_could_sign_in_with_is_refused(
    identity: Identity, database: Database, email: str, password: str
) -> None:
    with pytest.raises(Problems):
        await identity.add_user(email, "Ann", password)
    assert await counts(database) == [0, 0, 0]
