"""Calling a route with what FastAPI has found out about it, once, instead of finding out again at each request.

FastAPI describes a route's parameters and dependencies, and its functions decide here too what is valid and what is
said if it is not. Left out is what no route has: generators, background tasks, overrides, cookies, telemetry.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from pydantic_core import PydanticUndefined
from starlette.requests import Request
from starlette.responses import Response

Arguments = dict[str, Any]
Known = dict[Callable[..., Any], Any]
"""What dependencies have answered to this request."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function and where its arguments come from; `needs` are dependencies by the name of the argument, if any."""

    function: Callable[..., Awaitable[Any]]
    needs: tuple[tuple[str | None, "Call"], ...]
    path: list[ModelField]
    query: list[ModelField]
    headers: list[ModelField]
    body: ModelField | None
    request_name: str | None

    @classmethod
    def of(cls, dependant: Dependant) -> "Call | None":
        """How to call what FastAPI depends on; None for what only FastAPI itself can call."""
        function, needs = dependant.call, [(each.name, cls.of(each)) for each in dependant.dependencies]
        known = [(name, call) for name, call in needs if call is not None]
        if function is None or not _is_coroutine(function) or len(known) < len(needs) or _is_special(dependant):
            return None
        return cls(
            function=function,
            needs=tuple(known),
            path=dependant.path_params,
            query=dependant.query_params,
            headers=dependant.header_params,
            body=dependant.body_params[0] if dependant.body_params else None,
            request_name=dependant.request_param_name,
        )

    async def answer(self, request: Request) -> Response:
        """What a route answers; raises RequestValidationError."""
        body = PydanticUndefined if self.body is None else await _value(request)
        arguments, errors = await self.arguments(request, {})
        if self.body is not None:
            value, wrong = _valid(self.body, body)
            arguments[self.body.name] = value
            errors += wrong
        if errors:
            raise RequestValidationError(errors, body=None if body is PydanticUndefined else body)
        answer: Response = await self.function(**arguments)
        return answer

    async def arguments(self, request: Request, known: Known) -> tuple[Arguments, list[Any]]:
        """All arguments but the body, and what is wrong with them. Dependencies are asked once each."""
        arguments: Arguments = {}
        errors: list[Any] = []
        for name, need in self.needs:
            if need.function not in known:
                values, wrong = await need.arguments(request, known)
                if wrong:
                    errors += wrong
                    continue
                known[need.function] = await need.function(**values)
            if name is not None:
                arguments[name] = known[need.function]
        for fields, received in (
            (self.path, request.path_params), (self.query, request.query_params), (self.headers, request.headers)
        ):  # fmt: skip
            if fields:
                values, wrong = request_params_to_args(fields, received)
                arguments |= values
                errors += wrong
        if self.request_name is not None:
            arguments[self.request_name] = request
        return arguments, errors


def _is_coroutine(function: Callable[..., Any]) -> bool:
    return iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)


def _is_special(dependant: Dependant) -> bool:
    bodies = dependant.body_params
    return bool(
        dependant.cookie_params
        or dependant.response_param_name
        or dependant.background_tasks_param_name
        or dependant.security_scopes_param_name
        or dependant.http_connection_param_name
        or len(bodies) > 1
        or any(isinstance(body.field_info, Form) or getattr(body.field_info, "embed", None) for body in bodies)
    )


async def _value(request: Request) -> Any:
    """The value of the body; undefined if there is none."""
    return await request.json() if await request.body() else PydanticUndefined


def _valid(field: ModelField, value: Any) -> tuple[Any, list[Any]]:
    if value is PydanticUndefined and not field.field_info.is_required():
        return field.get_default(), []
    if value is PydanticUndefined:
        return None, [{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}]
    return field.validate(value, {}, loc=("body",))
