"""Stream tickets: how a browser, which cannot set headers on a WebSocket, brings its credential."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app import clock
from app.auth.authenticator import Authenticator
from app.auth.errors import refusal
from app.auth.opaque import hash_secret, new_ticket, ticket_hash
from app.auth.permissions import Permission, Role
from app.auth.principal import Principal
from app.engine.credentials import CredentialStore, TicketRecord


@dataclass(frozen=True, slots=True)
class IssuedTicket:
    ticket: str = field(repr=False)
    expires_at: datetime


class StreamTickets:
    """Tickets for one stream, one use and `ttl` seconds, which stand for the principal that asked for them."""

    def __init__(
        self,
        store: CredentialStore,
        authenticator: Authenticator,
        *,
        now: Callable[[], datetime] = clock.now,
        new_secret: Callable[[], str] = clock.new_secret,
        ttl: float = 30.0,
    ) -> None:
        self._store = store
        self._authenticator = authenticator
        self._now = now
        self._new_secret = new_secret
        self._ttl = timedelta(seconds=ttl)

    async def issue(self, principal: Principal, execution_id: str | None, origin: str | None) -> IssuedTicket:
        """A ticket for an execution's stream, None for the organisation's; `origin` binds it to the asking site."""
        ticket = new_ticket(self._new_secret())
        expires_at = self._now() + self._ttl
        await self._store.add_ticket(
            TicketRecord(
                ticket_hash=hash_secret(ticket),
                org_id=principal.org_id,
                user_id=principal.user_id,
                kind=principal.kind,
                credential_id=principal.credential_id,
                credential_expires_at=principal.expires_at,
                token_version=principal.token_version,
                permissions=frozenset(map(str, principal.permissions)),
                execution_id=execution_id,
                origin=origin,
                expires_at=expires_at,
            )
        )
        return IssuedTicket(ticket, expires_at)

    async def redeem(self, ticket: str, execution_id: str | None, origin: str | None) -> Principal:
        """The principal as of now; the ticket is spent even if it was for another stream or site.

        Raises Unauthenticated(`invalid_token`).
        """
        found_by = ticket_hash(ticket)
        if found_by is None:
            raise refusal("not the text of a ticket")
        record = await self._store.take_ticket(found_by, self._now())
        if record is None:
            raise refusal("no such ticket")
        if record.execution_id != execution_id:
            raise refusal("the ticket is for another stream")
        if record.origin is not None and record.origin != origin:
            raise refusal("the ticket is for another origin")
        return await self._authenticator.recheck(_principal(record))


def _principal(record: TicketRecord) -> Principal:
    """As it was when the ticket was issued, but for the role, which `recheck` reads anew."""
    return Principal(
        org_id=record.org_id,
        user_id=record.user_id,
        role=Role.VIEWER,
        permissions=frozenset(known for known in Permission if known in record.permissions),
        kind=record.kind,
        credential_id=record.credential_id,
        expires_at=record.credential_expires_at,
        token_version=record.token_version,
    )
