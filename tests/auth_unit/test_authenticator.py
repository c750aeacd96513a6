import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from auth_fakes import MASTER, NOW, FakeClock, FakeStore, add_member, forge

from app import clock as real_clock
from app.auth import opaque
from app.auth.authenticator import Authenticator
from app.auth.errors import INVALID_TOKEN
from app.auth.permissions import ROLE_PERMISSIONS, Permission, Role
from app.auth.tokens import AccessTokens
from app.domain.errors import Unauthenticated, Unavailable
from app.engine.credentials import ApiKeyRecord

KEY_ID = real_clock.new_id("key")
KEY = opaque.new_api_key(KEY_ID, real_clock.new_secret())


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeStore(self.clock)
        self.tokens = AccessTokens(MASTER)
        self.authenticator = self.new_authenticator()
        add_member(self.store, "user_a", "org_a")
        self.store.keys[KEY_ID] = ApiKeyRecord(
            key_id=KEY_ID,
            org_id="org_a",
            user_id="user_a",
            secret_hash=opaque.api_key_hash(KEY),
            scopes=None,
            expires_at=None,
            revoked_at=None,
            last_used_at=NOW,
            role="member",
            user_disabled=False,
        )

    def new_authenticator(self, cache_size: int = 10) -> Authenticator:
        return Authenticator(
            self.store,
            self.tokens,
            now=self.clock.now,
            monotonic=self.clock.monotonic,
            cache_size=cache_size,
        )

    def token(self, scopes: frozenset[str] | None = None, jti: str = "jti_a") -> str:
        return "Bearer " + self.tokens.issue("user_a", "org_a", 1, self.clock.now(), jti, scopes=scopes)[0]

    def change_user(self, **changes: object) -> None:
        self.store.users["user_a"] = replace(self.store.users["user_a"], **changes)  # type: ignore[arg-type]

    def change_key(self, **changes: object) -> None:
        self.store.keys[KEY_ID] = replace(self.store.keys[KEY_ID], **changes)  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    return World()


async def assert_refused(world: World, authorization: str | None, code: str = "invalid_token") -> None:
    with pytest.raises(Unauthenticated) as refused:
        await world.authenticator.authenticate(authorization)
    assert refused.value.error_code == code
    if code == "invalid_token":
        assert refused.value.detail == INVALID_TOKEN


async def test_a_session_has_its_users_role_in_the_tokens_organisation(world: World) -> None:
    principal = await world.authenticator.authenticate(world.token())
    assert (principal.org_id, principal.user_id, principal.role) == ("org_a", "user_a", Role.MEMBER)
    assert (principal.kind, principal.credential_id) == ("session", "jti_a")
    assert principal.permissions == ROLE_PERMISSIONS[Role.MEMBER]
    assert principal.expires_at == NOW + timedelta(seconds=600)


async def test_scopes_narrow_a_session(world: World) -> None:
    principal = await world.authenticator.authenticate(world.token(frozenset({"executions.read", "audit.read"})))
    assert principal.permissions == {Permission.EXECUTIONS_READ}


async def test_a_key_has_its_scopes_within_its_creators_role_of_now(world: World) -> None:
    world.change_key(scopes=frozenset({"executions.execute", "executions.read"}), role="viewer")
    principal = await world.authenticator.authenticate(f"Bearer {KEY}")
    assert (principal.kind, principal.credential_id, principal.role) == ("api_key", KEY_ID, Role.VIEWER)
    assert principal.permissions == {Permission.EXECUTIONS_READ}
    assert principal.expires_at is None


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "missing_credentials"),
        ("", "missing_credentials"),
        ("   ", "missing_credentials"),
        ("Bearer", "missing_credentials"),
        ("Bearer ", "missing_credentials"),
        ("Basic dXNlcjpwYXNz", "unsupported_scheme"),
        ("Digest", "unsupported_scheme"),
        (KEY, "unsupported_scheme"),
        ("Bearer\t" + KEY, "unsupported_scheme"),
        ("Bearer x", "invalid_token"),
        ("Bearer " + "a" * 5000, "invalid_token"),
        ("Bearer é", "invalid_token"),
        ("Bearer a.b.c, Bearer d.e.f", "invalid_token"),
        ("Bearer sk_", "invalid_token"),
    ],
)
async def test_what_is_no_credential_is_refused_without_a_read(
    world: World, authorization: str | None, code: str
) -> None:
    await assert_refused(world, authorization, code)
    assert not world.store.calls


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_read_in_any_case(world: World, scheme: str) -> None:
    assert (await world.authenticator.authenticate(f"{scheme} {KEY}")).user_id == "user_a"


async def test_the_hot_path_reads_nothing(world: World) -> None:
    for authorization in (world.token(), f"Bearer {KEY}"):
        first = await world.authenticator.authenticate(authorization)
        before = world.store.calls.total()
        world.clock.advance(4.9)
        assert await world.authenticator.authenticate(authorization) == first
        assert world.store.calls.total() == before


SESSION_ENDS: dict[str, Callable[[World], object]] = {
    "user deleted": lambda world: world.store.users.clear(),
    "user disabled": lambda world: world.change_user(disabled=True),
    "password changed": lambda world: world.change_user(token_version=2),
    "membership removed": lambda world: world.store.members.clear(),
}

KEY_ENDS: dict[str, Callable[[World], object]] = {
    "key deleted": lambda world: world.store.keys.clear(),
    "key revoked": lambda world: world.change_key(revoked_at=NOW),
    "key expired": lambda world: world.change_key(expires_at=NOW),
    "creator disabled": lambda world: world.change_key(user_disabled=True),
    "creator no member": lambda world: world.change_key(role=None),
    "secret replaced": lambda world: world.change_key(secret_hash=opaque.hash_secret("other")),
}


@pytest.mark.parametrize("how", SESSION_ENDS)
async def test_a_session_that_has_ended_is_refused_within_five_seconds(world: World, how: str) -> None:
    authorization = world.token()
    await world.authenticator.authenticate(authorization)
    SESSION_ENDS[how](world)
    world.clock.advance(5)
    await assert_refused(world, authorization)


@pytest.mark.parametrize("how", KEY_ENDS)
async def test_a_key_that_has_ended_is_refused_within_five_seconds(world: World, how: str) -> None:
    await world.authenticator.authenticate(f"Bearer {KEY}")
    KEY_ENDS[how](world)
    world.clock.advance(5)
    await assert_refused(world, f"Bearer {KEY}")


@pytest.mark.parametrize("how", SESSION_ENDS | KEY_ENDS)
async def test_a_connection_that_is_rechecked_ends_with_its_credential(world: World, how: str) -> None:
    ends = SESSION_ENDS.get(how)
    principal = await world.authenticator.authenticate(world.token() if ends else f"Bearer {KEY}")
    assert await world.authenticator.recheck(principal) == principal
    if how == "secret replaced":
        return
    (ends or KEY_ENDS[how])(world)
    with pytest.raises(Unauthenticated):
        await world.authenticator.recheck(principal)


async def test_a_recheck_follows_the_role_down_and_ends_with_the_token(world: World) -> None:
    principal = await world.authenticator.authenticate(world.token())
    add_member(world.store, "user_a", "org_a", "viewer")
    assert (await world.authenticator.recheck(principal)).permissions == ROLE_PERMISSIONS[Role.VIEWER]
    add_member(world.store, "user_a", "org_a", "owner")
    assert (await world.authenticator.recheck(principal)).permissions == ROLE_PERMISSIONS[Role.MEMBER]
    world.clock.advance(600)
    with pytest.raises(Unauthenticated):
        await world.authenticator.recheck(principal)


async def test_the_five_seconds_count_from_before_the_read(world: World) -> None:
    authorization = world.token()
    read = world.store.session_state

    async def slow_read(user_id: str, org_id: str) -> object:
        state = await read(user_id, org_id)
        world.clock.advance(3)
        return state

    world.store.session_state = slow_read  # type: ignore[method-assign,assignment]
    await world.authenticator.authenticate(authorization)
    world.change_user(disabled=True)
    world.clock.advance(2)
    await assert_refused(world, authorization)


async def test_a_remembered_credential_still_expires_on_time(world: World) -> None:
    authorization = world.token()
    world.clock.advance(628)
    await world.authenticator.authenticate(authorization)
    world.clock.advance(2)
    await assert_refused(world, authorization)
    world.change_key(expires_at=world.clock.now() + timedelta(seconds=2))
    await world.authenticator.authenticate(f"Bearer {KEY}")
    world.clock.advance(2)
    await assert_refused(world, f"Bearer {KEY}")


async def test_a_refusal_is_not_remembered(world: World) -> None:
    world.change_user(disabled=True)
    await assert_refused(world, world.token())
    world.change_user(disabled=False)
    assert (await world.authenticator.authenticate(world.token())).user_id == "user_a"


async def test_the_cache_is_bounded(world: World) -> None:
    authenticator = world.new_authenticator(cache_size=3)
    authorizations = [world.token(jti=f"jti_{number}") for number in range(5)]
    for authorization in authorizations:
        await authenticator.authenticate(authorization)
    assert len(authenticator._answers) == 3
    reads = world.store.calls["session_state"]
    await authenticator.authenticate(authorizations[-1])
    assert world.store.calls["session_state"] == reads
    await authenticator.authenticate(authorizations[0])
    assert world.store.calls["session_state"] == reads + 1


async def test_the_cache_holds_no_credentials(world: World) -> None:
    await world.authenticator.authenticate(f"Bearer {KEY}")
    assert KEY not in repr(world.authenticator._answers)


def test_a_cache_that_would_honour_revocation_late_cannot_be_made(world: World) -> None:
    with pytest.raises(ValueError, match="cache_ttl"):
        Authenticator(world.store, world.tokens, cache_ttl=5.1)


async def test_the_right_key_id_with_another_secret_is_refused(world: World) -> None:
    await assert_refused(world, f"Bearer {opaque.new_api_key(KEY_ID, real_clock.new_secret())}")


async def test_an_unknown_key_takes_the_same_read_and_comparison(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def spy(secret: str, expected_hash: str) -> bool:
        compared.append(expected_hash)
        return opaque.verify_secret(secret, expected_hash)

    monkeypatch.setattr("app.auth.authenticator.verify_secret", spy)
    await assert_refused(world, f"Bearer {opaque.new_api_key(real_clock.new_id('key'), real_clock.new_secret())}")
    await assert_refused(world, f"Bearer {opaque.new_api_key(KEY_ID, real_clock.new_secret())}")
    assert [len(expected) for expected in compared] == [64, 64]
    assert world.store.calls == {"api_key": 2}


async def test_a_wrong_checksum_is_refused_without_a_read(world: World) -> None:
    await assert_refused(world, f"Bearer {KEY[:-1]}{'A' if KEY[-1] != 'A' else 'B'}")
    assert not world.store.calls


async def test_a_refresh_token_is_no_access_token(world: World) -> None:
    token = opaque.new_refresh_token(real_clock.new_id("rt"), real_clock.new_secret())
    await assert_refused(world, f"Bearer {token}")


async def test_a_forged_token_is_refused_without_a_read(world: World) -> None:
    await assert_refused(world, f"Bearer {forge(key=b'guess')}")
    assert not world.store.calls


async def test_last_use_is_written_at_most_once_a_minute(world: World) -> None:
    for _ in range(7):
        world.clock.advance(10)
        await world.authenticator.authenticate(f"Bearer {KEY}")
    assert world.store.calls["touch_api_key"] == 1


async def test_a_last_use_that_cannot_be_written_refuses_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(_key_id: str) -> None:
        raise Unavailable("read only")

    monkeypatch.setattr(world.store, "touch_api_key", failing)
    world.change_key(last_used_at=None)
    assert (await world.authenticator.authenticate(f"Bearer {KEY}")).user_id == "user_a"


async def test_a_database_that_is_down_is_no_invalid_token(world: World) -> None:
    world.store.failing = Unavailable("down")
    for authorization in (world.token(), f"Bearer {KEY}"):
        with pytest.raises(Unavailable):
            await world.authenticator.authenticate(authorization)


async def test_a_crowd_with_one_credential_asks_once_and_those_who_leave_do_not_matter(world: World) -> None:
    crowd = [asyncio.ensure_future(world.authenticator.authenticate(f"Bearer {KEY}")) for _ in range(50)]
    await asyncio.sleep(0)
    crowd[0].cancel()
    found = await asyncio.gather(*crowd, return_exceptions=True)
    assert {principal.user_id for principal in found[1:] if not isinstance(principal, BaseException)} == {"user_a"}
    assert world.store.calls["api_key"] == 1


async def test_a_crowd_that_is_refused_is_refused_each_for_himself_and_not_remembered(world: World) -> None:
    world.change_key(revoked_at=NOW)
    for _ in range(2):
        crowd = [world.authenticator.authenticate(f"Bearer {KEY}") for _ in range(3)]
        assert {type(error) for error in await asyncio.gather(*crowd, return_exceptions=True)} == {Unauthenticated}
    assert world.store.calls["api_key"] == 2
