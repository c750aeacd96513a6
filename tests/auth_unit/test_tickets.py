from datetime import timedelta

import pytest
from auth_fakes import MASTER, NOW, FakeClock, FakeStore, add_member

from app.auth.authenticator import Authenticator
from app.auth.permissions import ROLE_PERMISSIONS, Permission, Role
from app.auth.principal import Principal
from app.auth.tickets import StreamTickets
from app.auth.tokens import AccessTokens
from app.domain.errors import Unauthenticated

SITE = "https://app.example.org"


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeStore(self.clock)
        add_member(self.store, "user_a", "org_a")
        authenticator = Authenticator(
            self.store, AccessTokens(MASTER), now=self.clock.now, monotonic=self.clock.monotonic
        )
        self.tickets = StreamTickets(self.store, authenticator, now=self.clock.now)
        self.principal = Principal(
            org_id="org_a",
            user_id="user_a",
            role=Role.MEMBER,
            permissions=frozenset({Permission.EXECUTIONS_READ, Permission.EXECUTIONS_CONTROL}),
            kind="session",
            credential_id="jti_a",
            expires_at=NOW + timedelta(seconds=600),
            token_version=1,
        )

    async def ticket(self, execution_id: str | None = "exec_a", origin: str | None = SITE) -> str:
        return (await self.tickets.issue(self.principal, execution_id, origin)).ticket

    async def assert_refused(self, ticket: str, execution_id: str | None = "exec_a", origin: str | None = SITE) -> None:
        with pytest.raises(Unauthenticated) as refused:
            await self.tickets.redeem(ticket, execution_id, origin)
        assert refused.value.error_code == "invalid_token"


@pytest.fixture
def world() -> World:
    return World()


async def test_a_ticket_stands_for_its_principal_once(world: World) -> None:
    issued = await world.tickets.issue(world.principal, "exec_a", SITE)
    assert issued.expires_at == NOW + timedelta(seconds=30)
    assert issued.ticket not in repr(issued)
    assert issued.ticket not in repr(world.store.tickets)
    assert await world.tickets.redeem(issued.ticket, "exec_a", SITE) == world.principal
    await world.assert_refused(issued.ticket)


async def test_a_ticket_lives_thirty_seconds(world: World) -> None:
    ticket = await world.ticket()
    world.clock.advance(30)
    await world.assert_refused(ticket)


@pytest.mark.parametrize(
    ("execution_id", "origin"), [("exec_b", SITE), (None, SITE), ("exec_a", "https://evil.example"), ("exec_a", None)]
)
async def test_a_ticket_tried_elsewhere_is_refused_and_spent(
    world: World, execution_id: str | None, origin: str | None
) -> None:
    ticket = await world.ticket()
    await world.assert_refused(ticket, execution_id, origin)
    await world.assert_refused(ticket)


async def test_an_organisation_ticket_opens_no_single_execution(world: World) -> None:
    await world.assert_refused(await world.ticket(execution_id=None), "exec_a")
    assert await world.tickets.redeem(await world.ticket(execution_id=None), None, SITE)


async def test_a_ticket_got_by_a_server_serves_any_allowed_site(world: World) -> None:
    assert await world.tickets.redeem(await world.ticket(origin=None), "exec_a", SITE)


@pytest.mark.parametrize("text", ["", "x", "é", "a" * 43 + "\n"])
async def test_what_is_no_ticket_is_refused_without_a_read(world: World, text: str) -> None:
    await world.assert_refused(text)
    assert not world.store.calls


async def test_a_ticket_gives_no_more_than_the_user_has_when_it_is_used(world: World) -> None:
    ticket = await world.ticket()
    add_member(world.store, "user_a", "org_a", "viewer")
    principal = await world.tickets.redeem(ticket, "exec_a", SITE)
    assert principal.role == Role.VIEWER
    assert principal.permissions == {Permission.EXECUTIONS_READ} < ROLE_PERMISSIONS[Role.VIEWER]


async def test_a_ticket_of_a_user_who_was_removed_is_refused(world: World) -> None:
    ticket = await world.ticket()
    world.store.members.clear()
    await world.assert_refused(ticket)
