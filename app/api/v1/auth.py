"""Sessions: sign in, refresh, sign out, who am I, and tickets for streams."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi.security import OAuth2PasswordRequestForm
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from app import clock
from app.api import routing
from app.api.deps import Public, Require, ServicesDep
from app.api.request import StrictRoute, demand_media_type
from app.api.responses import NO_STORE, Json
from app.api.routing import problems
from app.api.v1.schemas.auth import (
    Me,
    RefreshToken,
    Ticket,
    TicketRequest,
    Tokens,
    me_view,
    ticket_view,
    tokens_view,
)
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.domain.errors import Problem, Problems, StepstreamError
from app.services.identity import Source

MAX_FORM = 8192
FORM = "application/x-www-form-urlencoded"

SentToken = Annotated[
    RefreshToken, Body(openapi_examples={"token": {"summary": "A token", "value": {"refresh_token": "rt_01k…"}}})
]
CanRead = Annotated[Caller, Depends(Require(Permission.EXECUTIONS_READ))]


class FormRoute(StrictRoute):
    """A route that takes a small form, and nothing else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def small_form(request: Request) -> Response:
            body = await _form_body(request)

            async def receive() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            return await handle(Request(request.scope, receive))

        return small_form


async def _form_body(request: Request) -> bytes:
    demand_media_type(request, {FORM})
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise StepstreamError(f"The form has more than {MAX_FORM} bytes", code="body_too_large")
    return bytes(body)


router = APIRouter()
forms = APIRouter(prefix="/auth", tags=["Authentication"], route_class=FormRoute)
sessions = routing.router("/auth", "Authentication")
tickets = routing.router("/stream-tickets", "Streams")


@forms.post(
    "/token",
    operation_id="signIn",
    summary="Sign in with e-mail and password",
    response_model=Tokens,
    responses=problems(
        "invalid_request", "invalid_credentials", "body_too_large", "unsupported_media_type", "validation_error",
        "rate_limited", "database_unavailable", public=True,
    ),
    dependencies=[Depends(Public("it is how one gets a credential"))],
)  # fmt: skip
async def sign_in(
    request: Request, services: ServicesDep, form: Annotated[OAuth2PasswordRequestForm, Depends()]
) -> Response:
    """OAuth2's password flow; `username` is the e-mail.

    `scope` may narrow the session to some permissions (`executions.read …`) and choose the organisation (`org:<id>`);
    without that it is the one joined first.
    """
    org_id, scopes = _wanted(form.scopes)
    signed_in = await services.identity.sign_in(_source(request), form.username, form.password, org_id, scopes)
    return Json(tokens_view(signed_in, clock.now()), headers=NO_STORE)


@sessions.post(
    "/refresh",
    operation_id="refreshSession",
    summary="Get the next tokens of a session",
    response_model=Tokens,
    responses=problems(
        "invalid_json", "invalid_token", "refresh_reused", "unsupported_media_type", "validation_error",
        "database_unavailable", public=True,
    ),
    dependencies=[Depends(Public("the refresh token in the body is the credential"))],
)  # fmt: skip
async def refresh(request: Request, services: ServicesDep, body: SentToken) -> Response:
    """Uses the refresh token up. One that comes back after its use was copied: that ends the whole session."""
    signed_in = await services.identity.refresh(_source(request), body.refresh_token)
    return Json(tokens_view(signed_in, clock.now()), headers=NO_STORE)


@sessions.post(
    "/logout",
    status_code=204,
    operation_id="signOut",
    summary="End a session",
    responses=problems(
        "invalid_json", "unsupported_media_type", "validation_error", "database_unavailable", public=True
    ),
    dependencies=[Depends(Public("the refresh token in the body is the credential"))],
)
async def sign_out(request: Request, services: ServicesDep, body: SentToken) -> Response:
    """No token of the session can be refreshed any more; its access token ends by itself. 204 for unknown ones too."""
    await services.identity.sign_out(_source(request), body.refresh_token)
    return Response(status_code=204, headers=NO_STORE)


@sessions.get(
    "/me",
    operation_id="whoAmI",
    summary="Who the credential stands for",
    response_model=Me,
    responses=problems(),
)
async def me(services: ServicesDep, caller: Annotated[Caller, Depends(Require(None))]) -> Response:
    """User, organisation, role, and what this credential may do. Every credential may ask."""
    return Json(me_view(caller.principal, await services.identity.me(caller)), headers=NO_STORE)


@tickets.post(
    "",
    status_code=201,
    operation_id="createStreamTicket",
    summary="Get a ticket for a stream",
    response_model=Ticket,
    responses=problems("invalid_json", "not_found", "unsupported_media_type", "validation_error"),
)
async def create_ticket(
    request: Request,
    services: ServicesDep,
    caller: CanRead,
    body: Annotated[
        TicketRequest,
        Body(
            openapi_examples={
                "execution": {"summary": "Follow one execution", "value": {"execution_id": "exec_01k…"}},
                "organization": {"summary": "Follow all of the organisation", "value": {"execution_id": None}},
            }
        ),
    ],
) -> Response:
    """For browsers, which cannot send headers with a WebSocket: offer `protocols` instead.

    A ticket opens one connection, to this stream, from the site (Origin) that asked for it.
    """
    if body.execution_id is not None:
        await services.streams.check(caller.org_id, body.execution_id)
    issued = await services.tickets.issue(caller.principal, body.execution_id, request.headers.get("origin"))
    return Json(ticket_view(issued, clock.now()), 201, headers=NO_STORE)


for part in (forms, sessions, tickets):
    router.include_router(part)


def _wanted(words: list[str]) -> tuple[str | None, frozenset[str] | None]:
    """The organisation and the permissions that an OAuth scope asks for; None for what it does not mention."""
    organizations = [word.removeprefix("org:") for word in words if word.startswith("org:")]
    scopes = frozenset(word for word in words if not word.startswith("org:"))
    if len(organizations) > 1 or not scopes <= frozenset(map(str, Permission)):
        detail = "`scope` holds names of permissions and at most one `org:<id>`, separated by spaces"
        raise Problems(detail, [Problem("invalid_value", detail, "/scope")])
    return (organizations[0] if organizations else None), (scopes or None)


def _source(request: Request) -> Source:
    state = request.scope["state"]
    return Source(state["ip_address"], state["user_agent"], state["request_id"])
