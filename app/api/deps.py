"""What routes depend on: who calls, with which permission, and the services.

Every dependency is a coroutine function: FastAPI sends any other through a thread, which costs more than the rest of a
request.
"""

from typing import Annotated

from fastapi import Depends
from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection, Request

from app.api.request import demand_readable
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.domain.control import HOPS_HEADER
from app.domain.errors import Forbidden, StepstreamError, Unauthenticated
from app.services import Services


async def services(request: Request) -> Services:
    """The use cases, wired by the root."""
    return services_of(request)


def services_of(connection: HTTPConnection) -> Services:
    """The use cases of the app that a request or a handshake came to."""
    found: Services = connection.app.state.services
    return found


ServicesDep = Annotated[Services, Depends(services)]

_CREDENTIALS = frozenset({"token", "access_token", "api_key", "ticket"})


class Require:
    """Depends on a caller with a permission, or (None) on any caller. Every route has one or says why it is public."""

    def __init__(self, permission: Permission | None) -> None:
        self.permission = permission

    async def __call__(self, request: Request) -> Caller:
        services = services_of(request)
        caller = await authenticate(request, services)
        count(request, caller, services)
        if self.permission is not None:
            await demand(caller, self.permission, services)
        demand_readable(request)
        return caller


class Public:
    """Marks a route that needs no credential, and says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    async def __call__(self, request: Request) -> None:
        demand_readable(request)


async def authenticate(connection: HTTPConnection, services: Services) -> Caller:
    """The caller behind a request or a WebSocket handshake; raises Unauthenticated."""
    refuse_credentials_in(connection.query_params)
    headers = connection.headers.getlist("authorization")
    if len(headers) > 1:
        raise StepstreamError("There are two Authorization headers", code="ambiguous_credentials")
    if not headers:
        raise Unauthenticated("Send `Authorization: Bearer <token>`", code="missing_credentials")
    state = connection.scope["state"]
    try:
        principal = await services.authenticator.authenticate(headers[0])
    except Unauthenticated:
        services.rates.count_refused(state["ip_address"])
        raise
    return Caller(
        principal=principal,
        ip_address=state["ip_address"],
        user_agent=state["user_agent"],
        request_id=state["request_id"],
        hops=_hops(connection.headers.get(HOPS_HEADER, "")),
    )


def _hops(text: str) -> int:
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= 3 else 0


def count(request: Request, caller: Caller, services: Services) -> None:
    """Raise RateExceeded if the caller comes too often, Unavailable if the organisation has its share of the places."""
    state = request.scope["state"]
    state["standing"] = services.rates.count(caller.principal)
    state["place"].claim(caller.org_id)


def refuse_credentials_in(query: QueryParams) -> None:
    """Raise `token_in_query` for a credential in a URL: others read it there, in logs and histories."""
    if _CREDENTIALS & set(query):
        raise StepstreamError("Send the credential in the Authorization header", code="token_in_query")


async def demand(caller: Caller, permission: Permission, services: Services) -> None:
    """Raise Forbidden, and leave an audit row, unless the caller has the permission."""
    if not caller.principal.allows(permission):
        await services.audit.denied(caller, permission)
        raise Forbidden(f"This needs the permission '{permission}'")
