"""Reading requests strictly. What cannot be read is noted, not raised, so that a caller is authenticated first."""

from collections.abc import Callable, Collection, Coroutine
from email.message import Message
from typing import Any

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from app.api.calls import Call
from app.api.headers import headers_of
from app.api.parameters import Parameters
from app.api.strict_json import read_json
from app.domain.errors import ConnectionLost, Problem, Problems, StepstreamError

JSON = "application/json"
MAX_FIELDS = 100
"""Of the object that a body is: no route knows so many, and each that is unknown costs time and memory to tell."""


class StrictRequest(Request):
    """A request with the parameters that its route declares, and a body that is strict JSON."""

    refusal: StepstreamError | None = None
    """What is wrong with the query string or, once it has been read, with the body."""

    needs_body: bool = False

    @property
    def headers(self) -> Headers:
        """The headers."""
        return headers_of(self.scope)

    async def body(self) -> bytes:
        """The bytes of the body."""
        body = await super().body()
        if self.needs_body and not body:
            self.refusal = self.refusal or StepstreamError("The body is empty", code="invalid_json")
        return body

    async def json(self) -> Any:
        """The body's value; an error, which no model takes for a value, if there is none."""
        try:
            demand_media_type(self, {JSON})
            value = read_json(await self.body())
            if isinstance(value, dict) and len(value) > MAX_FIELDS:
                detail = f"The body has more than {MAX_FIELDS} fields"
                raise Problems(detail, [Problem("unknown_field", detail)])
            return value
        except StepstreamError as error:
            self.refusal = self.refusal or error
            return error


def demand_readable(request: Request) -> None:
    """Raise what was found wrong with the request as it was read.

    Validation alone does not find it: to a model in which everything may be left out, any object is one that leaves
    everything out.
    """
    if isinstance(request, StrictRequest) and request.refusal is not None:
        raise request.refusal


def demand_media_type(request: Request, accepted: Collection[str]) -> str:
    """The media type of the body, one of the accepted ones and in UTF-8.

    Raises `unsupported_media_type` or `unsupported_content_encoding`.
    """
    if set(request.headers.getlist("content-encoding")) - {"identity"}:
        raise StepstreamError("The body is sent without Content-Encoding", code="unsupported_content_encoding")
    given = request.headers.getlist("content-type")
    if given == [JSON] and JSON in accepted:
        return JSON
    message = Message()
    message["content-type"] = given[0] if len(given) == 1 else ""
    kind, charset = message.get_content_type(), message.get_content_charset("utf-8")
    if not message["content-type"] or kind not in accepted or charset not in {"utf-8", "us-ascii"}:
        kinds = " or ".join(f"`{each}`" for each in sorted(accepted))
        raise StepstreamError(f"The body is sent as `Content-Type:` {kinds}, in UTF-8", code="unsupported_media_type")
    return kind


class StrictRoute(APIRoute):
    """A route that takes the parameters it declares, and reads its body strictly.

    `call` is None for a route that only FastAPI can call.
    """

    call: Call | None

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        self.call = Call.of(self.dependant)
        self._handle = super().get_route_handler() if self.call is None else self.call.answer
        self._parameters = Parameters.of(self.dependant)
        self._needs_body = self.body_field is not None and self.body_field.field_info.is_required()
        self._reads_only = self.methods in ({"GET"}, {"HEAD"})

        async def strict(request: Request) -> Response:
            return await self.answer(request.scope, request.receive)

        return strict

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """What the route answers to a request for it."""
        request = StrictRequest(scope, receive)
        request.needs_body = self._needs_body
        request.refusal = self._parameters.refusal(request.query_params)
        try:
            return await self._handle(request)
        except ConnectionLost:
            if not self._reads_only:
                raise
            return await self._handle(request)  # on another connection, and nobody has noticed
