"""The credential store keeps its word under real concurrency: tokens are used once, revoked families stay revoked."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.db.credentials import Credentials
from app.db.engines import DriverConnection, auth_engine
from app.db.urls import AUTH
from app.domain.errors import Conflict, Problems, Unavailable
from app.engine.credentials import (
    MembershipRecord,
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
from tests.database import Database

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
ORG, USER = "org_a", "user_org_a"
OWNER = SessionOwner(ORG, USER)
FIRST = RefreshRecord("rt_1", "rt_1", "hash_1", ORG, USER, 3, frozenset({"executions.read"}), LATER)
TICKET = TicketRecord(
    ticket_hash="ticket_hash",
    org_id=ORG,
    user_id=USER,
    kind="session",
    credential_id="jti_1",
    credential_expires_at=LATER,
    token_version=3,
    permissions=frozenset({"executions.read", "workflows.read"}),
    execution_id="exec_1",
    origin="https://ui.example.com",
    expires_at=LATER,
)
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND usename = 'stepstream_auth' AND wait_event_type = 'Lock'
"""


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Credentials]:
    await database.add_tenant(ORG)
    engine = auth_engine(database.role_url(AUTH))
    yield Credentials(engine)
    await engine.dispose()


def successor(number: int, expires_at: datetime = LATER) -> RefreshSuccessor:
    return RefreshSuccessor(f"rt_{number}", f"hash_{number}", expires_at)


async def rotate(store: Credentials, number: int) -> None:
    """Use token `number` up; the next one takes its place."""
    outcome = await store.take_refresh(f"rt_{number}", f"hash_{number}", successor(number + 1), NOW)
    assert isinstance(outcome, Rotated)


async def live(database: Database) -> list[str]:
    rows = await database.fetch(
        "SELECT id FROM refresh_tokens WHERE revoked_at IS NULL AND used_at IS NULL ORDER BY id"
    )
    return [row["id"] for row in rows]


@asynccontextmanager
async def held_back(database: Database, statement: str) -> AsyncIterator[DriverConnection]:
    """Whoever needs what `statement` locks waits until the block ends."""
    async with database.connected() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(statement)
        yield connection
        await transaction.rollback()


async def until_waiting(database: Database, count: int) -> None:
    async with asyncio.timeout(10):
        while await database.fetchval(WAITING) < count:
            pass


async def all_at_once(database: Database, lock: str, calls: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The results of calls all of which stood at the same lock."""
    async with held_back(database, lock):
        tasks = []
        for number, call in enumerate(calls, 1):
            tasks.append(asyncio.create_task(call))
            await until_waiting(database, number)
    return await asyncio.gather(*tasks)


async def test_a_user_is_found_by_the_exact_e_mail(store: Credentials, database: Database) -> None:
    await database.execute("UPDATE users SET password_hash = 'argon', token_version = 7, disabled = true")
    expected = UserRecord(USER, "org_a@example.com", "Ann", "argon", 7, True)
    assert await store.user_by_email("org_a@example.com") == expected
    for unknown in ("org_a@example.co", "org_a@example_com", "%", ""):
        assert await store.user_by_email(unknown) is None


async def test_memberships_come_the_oldest_first(store: Credentials, database: Database) -> None:
    for org, joined in (("org_c", NOW - timedelta(days=2)), ("org_b", NOW - timedelta(days=1))):
        await database.execute("INSERT INTO organizations (id, name) VALUES ($1, $1)", org)
        await database.execute("INSERT INTO memberships VALUES ($1, $2, 'viewer', $3)", org, USER, joined)
    await database.execute("UPDATE memberships SET created_at = $1 WHERE org_id = $2", NOW, ORG)
    assert await store.memberships(USER) == [
        MembershipRecord("org_c", "viewer", NOW - timedelta(days=2)),
        MembershipRecord("org_b", "viewer", NOW - timedelta(days=1)),
        MembershipRecord(ORG, "owner", NOW),
    ]
    assert await store.memberships("user_nobody") == []


async def test_a_session_is_judged_by_the_user_as_of_now(store: Credentials, database: Database) -> None:
    assert await store.session_state(USER, ORG) == SessionState(1, False, "owner")
    await database.execute("UPDATE users SET token_version = 2, disabled = true")
    assert await store.session_state(USER, ORG) == SessionState(2, True, "owner")
    assert await store.session_state(USER, "org_other") == SessionState(2, True, None)
    assert await store.session_state("user_nobody", ORG) is None


async def test_a_key_comes_with_its_creator_as_of_now(store: Credentials, database: Database) -> None:
    await database.execute(
        "INSERT INTO api_keys (id, org_id, user_id, name, secret_hash, scopes) VALUES "
        "('key_1', $1, $2, 'One', 'hash', ARRAY['audit.read']), ('key_2', $1, $2, 'Two', 'hash', NULL)",
        ORG,
        USER,
    )
    key = await store.api_key("key_1")
    assert key is not None
    assert (key.org_id, key.user_id, key.secret_hash, key.role) == (ORG, USER, "hash", "owner")
    assert (key.scopes, key.expires_at, key.revoked_at, key.last_used_at) == (
        frozenset({"audit.read"}),
        None,
        None,
        None,
    )
    await database.execute("UPDATE memberships SET role = 'viewer'")
    await database.execute("UPDATE users SET disabled = true")
    await database.execute("UPDATE api_keys SET revoked_at = $1, expires_at = $2", NOW, LATER)
    other = await store.api_key("key_2")
    assert other is not None
    assert (other.scopes, other.role, other.user_disabled) == (None, "viewer", True)
    assert (other.revoked_at, other.expires_at) == (NOW, LATER)
    assert await store.api_key("key_3") is None


async def test_touching_a_key_sets_only_its_own_time(store: Credentials, database: Database) -> None:
    await database.execute(
        "INSERT INTO api_keys (id, org_id, user_id, name, secret_hash) VALUES "
        "('key_1', $1, $2, 'One', 'hash'), ('key_2', $1, $2, 'Two', 'hash')",
        ORG,
        USER,
    )
    await store.touch_api_key("key_1")
    touched = await database.fetch("SELECT id FROM api_keys WHERE clock_timestamp() - last_used_at < interval '1 min'")
    assert [row["id"] for row in touched] == ["key_1"]


async def test_a_rotated_token_passes_on_what_it_stood_for(store: Credentials, database: Database) -> None:
    await store.add_refresh(FIRST)
    outcome = await store.take_refresh("rt_1", "hash_1", successor(2, LATER + timedelta(days=1)), NOW)
    expected = replace(FIRST, token_id="rt_2", secret_hash="hash_2", expires_at=LATER + timedelta(days=1))
    assert outcome == Rotated(expected)
    assert await live(database) == ["rt_2"]
    again = await store.take_refresh("rt_2", "hash_2", successor(3), NOW)
    assert isinstance(again, Rotated)
    assert again.successor.family_id == "rt_1"
    assert again.successor.scopes == frozenset({"executions.read"})
    assert again.successor.token_version == 3


async def test_a_token_without_scopes_passes_on_none(store: Credentials) -> None:
    await store.add_refresh(replace(FIRST, scopes=None))
    outcome = await store.take_refresh("rt_1", "hash_1", successor(2), NOW)
    assert isinstance(outcome, Rotated)
    assert outcome.successor.scopes is None


async def test_knowing_an_id_changes_nothing(store: Credentials, database: Database) -> None:
    await store.add_refresh(FIRST)
    await rotate(store, 1)
    for token_id, secret_hash in (("rt_1", "hash_2"), ("rt_2", "hash_1"), ("rt_9", "hash_9"), ("rt_1", "")):
        assert await store.take_refresh(token_id, secret_hash, successor(3), NOW) == Unknown()
        assert await store.revoke_refresh_family(token_id, secret_hash) is None
    assert await live(database) == ["rt_2"]


@pytest.mark.parametrize("now", [LATER, LATER + timedelta(days=1)])
async def test_an_expired_token_is_unknown_and_nothing_comes_of_it(
    store: Credentials, database: Database, now: datetime
) -> None:
    await store.add_refresh(FIRST)
    assert await store.take_refresh("rt_1", "hash_1", successor(2), now) == Unknown()
    assert await database.fetchval("SELECT count(*) FROM refresh_tokens") == 1


async def test_a_token_used_before_revokes_its_family_even_when_it_has_expired(
    store: Credentials, database: Database
) -> None:
    await store.add_refresh(FIRST)
    await store.add_refresh(replace(FIRST, token_id="rt_8", family_id="rt_8", secret_hash="hash_8"))
    await rotate(store, 1)
    await rotate(store, 2)
    assert await store.take_refresh("rt_1", "hash_1", successor(4), LATER + timedelta(days=9)) == Reused(OWNER)
    assert await live(database) == ["rt_8"]
    assert await store.take_refresh("rt_3", "hash_3", successor(4), NOW) == Unknown()


async def test_a_signed_out_family_gives_nothing_more(store: Credentials, database: Database) -> None:
    await store.add_refresh(FIRST)
    await rotate(store, 1)
    assert await store.revoke_refresh_family("rt_1", "hash_1") == OWNER
    assert await live(database) == []
    assert await store.take_refresh("rt_2", "hash_2", successor(3), NOW) == Unknown()
    assert await store.revoke_refresh_family("rt_2", "hash_2") == OWNER


async def test_of_many_rotations_at_once_one_wins_and_its_successor_is_revoked_too(
    store: Credentials, database: Database
) -> None:
    await store.add_refresh(FIRST)
    calls = [store.take_refresh("rt_1", "hash_1", successor(number), NOW) for number in range(2, 6)]
    outcomes = await all_at_once(database, "SELECT 1 FROM refresh_tokens FOR UPDATE", calls)
    assert sum(isinstance(outcome, Rotated) for outcome in outcomes) == 1
    assert outcomes.count(Reused(OWNER)) == 3
    assert await database.fetchval("SELECT count(*) FROM refresh_tokens") == 2
    assert await live(database) == []


@pytest.mark.parametrize("how", ["reuse", "sign-out"])
async def test_no_token_escapes_a_revocation_by_being_rotated_meanwhile(
    store: Credentials, database: Database, how: str
) -> None:
    await store.add_refresh(FIRST)
    await rotate(store, 1)
    # The rotation of the second token stands in the middle of its transaction: its insert waits for this one.
    third = (
        "INSERT INTO refresh_tokens (id, family_id, org_id, user_id, secret_hash, token_version, expires_at) "
        f"VALUES ('rt_3', 'rt_1', '{ORG}', '{USER}', 'other', 1, now())"
    )
    revocation = (
        store.take_refresh("rt_1", "hash_1", successor(9), NOW)
        if how == "reuse"
        else store.revoke_refresh_family("rt_1", "hash_1")
    )
    rotation = store.take_refresh("rt_2", "hash_2", successor(3), NOW)
    rotated, revoked = await all_at_once(database, third, [rotation, revocation])
    assert isinstance(rotated, Rotated)
    assert revoked in (Reused(OWNER), OWNER)
    assert await live(database) == []


async def test_reuses_of_several_tokens_of_a_family_do_not_deadlock(store: Credentials, database: Database) -> None:
    await store.add_refresh(FIRST)
    for number in (1, 2, 3):
        await rotate(store, number)
    calls = [store.take_refresh(f"rt_{n}", f"hash_{n}", successor(9), NOW) for n in (3, 1, 2)]
    assert await all_at_once(database, "SELECT 1 FROM refresh_tokens FOR UPDATE", calls) == [Reused(OWNER)] * 3
    assert await live(database) == []


async def test_families_do_not_wait_for_each_other(store: Credentials, database: Database) -> None:
    await store.add_refresh(FIRST)
    await store.add_refresh(replace(FIRST, token_id="rt_8", family_id="rt_8", secret_hash="hash_8"))
    async with held_back(database, "SELECT 1 FROM refresh_tokens WHERE id = 'rt_1' FOR UPDATE"):
        stuck = asyncio.create_task(store.take_refresh("rt_1", "hash_1", successor(2), NOW))
        await until_waiting(database, 1)
        await rotate(store, 8)
        assert not stuck.done()
    assert isinstance(await stuck, Rotated)


async def test_a_ticket_comes_back_as_it_was_put_in_and_only_once(store: Credentials, database: Database) -> None:
    bare = replace(
        TICKET, ticket_hash="other", kind="api_key", credential_expires_at=None, token_version=None,
        permissions=frozenset(), execution_id=None, origin=None,
    )  # fmt: skip
    for ticket in (TICKET, bare):
        await store.add_ticket(ticket)
        assert await store.take_ticket(ticket.ticket_hash, NOW) == ticket
        assert await store.take_ticket(ticket.ticket_hash, NOW) is None
    assert await database.fetchval("SELECT count(*) FROM stream_tickets") == 0


@pytest.mark.parametrize("now", [LATER, LATER + timedelta(days=1)])
async def test_an_expired_ticket_is_not_taken(store: Credentials, now: datetime) -> None:
    await store.add_ticket(TICKET)
    assert await store.take_ticket(TICKET.ticket_hash, now) is None


async def test_of_many_takers_at_once_one_gets_the_ticket(store: Credentials, database: Database) -> None:
    await store.add_ticket(TICKET)
    calls = [store.take_ticket(TICKET.ticket_hash, NOW) for _ in range(4)]
    taken = await all_at_once(database, "SELECT 1 FROM stream_tickets FOR UPDATE", calls)
    assert sorted(taken, key=lambda ticket: ticket is None) == [TICKET, None, None, None]


async def test_tokens_and_tickets_end_with_the_membership(store: Credentials, database: Database) -> None:
    await store.add_refresh(FIRST)
    await store.add_ticket(TICKET)
    await database.execute("DELETE FROM memberships")
    assert await store.take_refresh("rt_1", "hash_1", successor(2), NOW) == Unknown()
    assert await store.take_ticket(TICKET.ticket_hash, NOW) is None
    with pytest.raises(Problems) as refused:
        await store.add_refresh(FIRST)
    assert refused.value.error_code == "unknown_reference"


async def test_an_id_is_never_given_twice(store: Credentials) -> None:
    await store.add_refresh(FIRST)
    with pytest.raises(Conflict):
        await store.add_refresh(FIRST)


async def test_a_database_that_does_not_answer_is_unavailable() -> None:
    engine = auth_engine("postgresql://nobody@127.0.0.1:1/nowhere")
    with pytest.raises(Unavailable):
        await Credentials(engine).session_state(USER, ORG)
    await engine.dispose()
