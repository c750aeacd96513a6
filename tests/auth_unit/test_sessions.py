from dataclasses import replace
from datetime import timedelta

import pytest
from auth_fakes import MASTER, NOW, FakeClock, FakeStore, add_member

from app import clock as real_clock
from app.auth import opaque
from app.auth.authenticator import Authenticator
from app.auth.errors import RefreshReused
from app.auth.passwords import Passwords
from app.auth.permissions import ROLE_PERMISSIONS, Permission, Role
from app.auth.sessions import Sessions, SignedIn, normal_email
from app.auth.throttle import SignInThrottle
from app.auth.tokens import AccessTokens
from app.domain.errors import Throttled, Unauthenticated, Unavailable

EMAIL = "user_a@example.org"
PASSWORD = "correct horse"


class World:
    def __init__(self, stored_hash: str) -> None:
        self.clock = FakeClock()
        self.store = FakeStore(self.clock)
        self.tokens = AccessTokens(MASTER)
        self.authenticator = Authenticator(
            self.store, self.tokens, now=self.clock.now, monotonic=self.clock.monotonic, cache_ttl=0
        )
        self.sessions = Sessions(
            self.store,
            self.tokens,
            Passwords(memory_kib=8, time_cost=1),
            SignInThrottle(monotonic=self.clock.monotonic),
            now=self.clock.now,
        )
        add_member(self.store, "user_a", "org_young", "owner", NOW)
        add_member(self.store, "user_a", "org_old", "viewer", NOW - timedelta(days=1))
        self.change_user(password_hash=stored_hash)

    def change_user(self, **changes: object) -> None:
        self.store.users["user_a"] = replace(self.store.users["user_a"], **changes)  # type: ignore[arg-type]

    async def sign_in(self, org_id: str | None = None) -> SignedIn:
        return await self.sessions.sign_in(EMAIL, PASSWORD, org_id)

    async def assert_no_refresh(self, token: str) -> None:
        with pytest.raises(Unauthenticated) as refused:
            await self.sessions.refresh(token)
        assert refused.value.error_code == "invalid_token"


@pytest.fixture(scope="module")
async def stored_hash() -> str:
    return await Passwords(memory_kib=8, time_cost=1).hash(PASSWORD)


@pytest.fixture
async def world(stored_hash: str) -> World:
    return World(stored_hash)


async def test_a_sign_in_opens_a_session_in_the_oldest_membership(world: World) -> None:
    signed_in = await world.sign_in()
    principal = signed_in.principal
    assert (principal.org_id, principal.user_id, principal.role) == ("org_old", "user_a", Role.VIEWER)
    assert signed_in.tokens.access_expires_at == NOW + timedelta(minutes=10)
    assert signed_in.tokens.refresh_expires_at == NOW + timedelta(days=30)
    assert await world.authenticator.authenticate(f"Bearer {signed_in.tokens.access_token}") == principal


async def test_a_sign_in_may_name_the_organisation(world: World) -> None:
    principal = (await world.sign_in("org_young")).principal
    assert (principal.org_id, principal.role) == ("org_young", Role.OWNER)


@pytest.mark.parametrize("email", ["USER_A@Example.ORG", "  user_a@example.org\n", "user_a\x00@example.org"])
async def test_emails_are_compared_in_one_form(world: World, email: str) -> None:
    assert (await world.sessions.sign_in(email, PASSWORD)).principal.user_id == "user_a"
    assert normal_email(email) == EMAIL


@pytest.mark.parametrize(
    ("email", "password", "org_id"),
    [
        (EMAIL, "wrong", None),
        (EMAIL, "", None),
        ("nobody@example.org", PASSWORD, None),
        ("", "", None),
        ("\ud800", "\ud800", None),
        (EMAIL, PASSWORD, "org_other"),
        (EMAIL, PASSWORD, ""),
    ],
)
async def test_a_failed_sign_in_does_not_say_what_was_wrong(
    world: World, email: str, password: str, org_id: str | None
) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await world.sessions.sign_in(email, password, org_id)
    assert refused.value.error_code == "invalid_credentials"
    assert refused.value.detail == "E-mail, password or organisation is wrong."
    assert not world.store.refresh


@pytest.mark.parametrize("changes", [{"disabled": True}, {"password_hash": None}])
async def test_a_disabled_user_or_one_without_password_cannot_sign_in(world: World, changes: dict[str, object]) -> None:
    world.change_user(**changes)
    with pytest.raises(Unauthenticated) as refused:
        await world.sign_in()
    assert refused.value.error_code == "invalid_credentials"


async def test_a_user_without_membership_cannot_sign_in(world: World) -> None:
    world.store.members.clear()
    with pytest.raises(Unauthenticated):
        await world.sign_in()


async def test_the_store_gets_hashes_only(world: World) -> None:
    signed_in = await world.sign_in()
    stored = repr(world.store.refresh)
    parsed = opaque.parse_refresh_token(signed_in.tokens.refresh_token)
    assert parsed is not None
    assert parsed[1] not in stored
    assert opaque.hash_secret(parsed[1]) in stored
    assert parsed[1] not in repr(signed_in)
    assert signed_in.tokens.access_token not in repr(signed_in)


async def test_each_refresh_gives_a_new_pair_of_the_same_session(world: World) -> None:
    first = await world.sign_in("org_young")
    world.clock.advance(3600)
    second = await world.sessions.refresh(first.tokens.refresh_token)
    third = await world.sessions.refresh(second.tokens.refresh_token)
    assert len({pair.tokens.refresh_token for pair in (first, second, third)}) == 3
    assert (third.principal.org_id, third.principal.role) == ("org_young", Role.OWNER)
    assert third.tokens.refresh_expires_at == NOW + timedelta(days=30, hours=1)
    assert await world.authenticator.authenticate(f"Bearer {third.tokens.access_token}") == third.principal


async def test_a_reused_refresh_token_ends_the_whole_family(world: World) -> None:
    first = await world.sign_in()
    other_family = await world.sign_in()
    second = await world.sessions.refresh(first.tokens.refresh_token)
    with pytest.raises(RefreshReused) as reused:
        await world.sessions.refresh(first.tokens.refresh_token)
    assert reused.value.error_code == "refresh_reused"
    assert (reused.value.org_id, reused.value.user_id) == ("org_old", "user_a")
    await world.assert_no_refresh(second.tokens.refresh_token)
    await world.sessions.refresh(other_family.tokens.refresh_token)


async def test_knowing_the_id_of_a_refresh_token_ends_nothing(world: World) -> None:
    first = await world.sign_in()
    parsed = opaque.parse_refresh_token(first.tokens.refresh_token)
    assert parsed is not None
    guess = opaque.new_refresh_token(parsed[0], real_clock.new_secret())
    await world.assert_no_refresh(guess)
    assert await world.sessions.sign_out(guess) is None
    await world.sessions.refresh(first.tokens.refresh_token)


async def test_a_refresh_token_expires(world: World) -> None:
    signed_in = await world.sign_in()
    world.clock.advance(30 * 86_400)
    await world.assert_no_refresh(signed_in.tokens.refresh_token)


@pytest.mark.parametrize("text", ["", "x", "rt_", "é", "a.b.c"])
async def test_what_is_no_refresh_token_is_refused_without_a_read(world: World, text: str) -> None:
    await world.assert_no_refresh(text)
    assert await world.sessions.sign_out(text) is None
    assert not world.store.calls


async def test_access_tokens_and_keys_do_not_refresh(world: World) -> None:
    signed_in = await world.sign_in()
    await world.assert_no_refresh(signed_in.tokens.access_token)
    await world.assert_no_refresh(opaque.new_api_key(real_clock.new_id("key"), real_clock.new_secret()))


@pytest.mark.parametrize("how", ["disabled", "password", "membership"])
async def test_a_session_whose_user_has_ended_it_cannot_be_refreshed_ever_again(world: World, how: str) -> None:
    signed_in = await world.sign_in()
    members = dict(world.store.members)
    match how:
        case "disabled":
            world.change_user(disabled=True)
        case "password":
            world.change_user(token_version=2)
        case _:
            world.store.members.clear()
    await world.assert_no_refresh(signed_in.tokens.refresh_token)
    world.change_user(disabled=False, token_version=1)
    world.store.members.update(members)
    (successor,) = (r for r in world.store.refresh.values() if r.token_id not in world.store.used)
    assert successor.family_id in world.store.revoked_families


async def test_a_refresh_follows_the_role(world: World) -> None:
    signed_in = await world.sign_in("org_young")
    add_member(world.store, "user_a", "org_young", "viewer")
    refreshed = await world.sessions.refresh(signed_in.tokens.refresh_token)
    assert refreshed.principal.permissions == ROLE_PERMISSIONS[Role.VIEWER]


async def test_scopes_stay_with_the_session(world: World) -> None:
    scopes = frozenset({"executions.read", "openid", "x" * 5000})
    signed_in = await world.sessions.sign_in(EMAIL, PASSWORD, "org_young", scopes=scopes)
    refreshed = await world.sessions.refresh(signed_in.tokens.refresh_token)
    for pair in (signed_in, refreshed):
        principal = await world.authenticator.authenticate(f"Bearer {pair.tokens.access_token}")
        assert principal.permissions == pair.principal.permissions == {Permission.EXECUTIONS_READ}


async def test_sign_out_ends_the_family_and_may_be_repeated(world: World) -> None:
    first = await world.sign_in()
    second = await world.sessions.refresh(first.tokens.refresh_token)
    for _ in range(2):
        owner = await world.sessions.sign_out(second.tokens.refresh_token)
        assert owner is not None
        assert (owner.org_id, owner.user_id) == ("org_old", "user_a")
    await world.assert_no_refresh(second.tokens.refresh_token)


async def test_guessing_is_slowed_down_and_says_for_how_long(world: World) -> None:
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            await world.sessions.sign_in(EMAIL, "wrong")
    reads = world.store.calls.total()
    with pytest.raises(Throttled) as throttled:
        await world.sessions.sign_in(EMAIL.upper(), PASSWORD)
    assert throttled.value.retry_after == 60
    assert world.store.calls.total() == reads
    world.clock.advance(60)
    await world.sign_in()


async def test_many_accounts_from_one_address_are_slowed_down(world: World) -> None:
    for number in range(30):
        with pytest.raises(Unauthenticated):
            await world.sessions.sign_in(f"{number}@example.org", "wrong", ip_address="192.0.2.1")
    with pytest.raises(Throttled):
        await world.sessions.sign_in(EMAIL, PASSWORD, ip_address="192.0.2.1")
    await world.sessions.sign_in(EMAIL, PASSWORD, ip_address="192.0.2.2")


async def test_signing_in_often_is_not_guessing(world: World) -> None:
    for _ in range(15):
        await world.sign_in()


async def test_a_database_that_is_down_is_no_wrong_password(world: World) -> None:
    world.store.failing = Unavailable("down")
    for _ in range(15):
        with pytest.raises(Unavailable):
            await world.sign_in()
    world.store.failing = None
    await world.sign_in()
