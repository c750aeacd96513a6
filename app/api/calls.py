"""Calling a route with what FastAPI has found out about it, once, instead of finding out again at each request.

FastAPI describes a route's parameters and dependencies, and its functions decide here too what is valid and what is
said if it is not. Left out is what no route has: generators, background tasks, overrides, cookies, telemetry.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from pydantic_core import PydanticUndefined
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import Response

Arguments = dict[str, Any]
Received = Mapping[str, Any] | QueryParams | Headers
Known = dict[Callable[..., Any], Any]
"""What dependencies have answered to this request."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A parameter of the path, the query or the headers; `free`: any text is right and stays what it is."""

    field: ModelField
    alias: str
    free: bool
    required: bool
    default: Any

    @classmethod
    def of(cls, field: ModelField) -> "_Parameter":
        info = field.field_info
        free = info.annotation in (str, str | None) and not info.metadata
        simple = isinstance(info.default, str | int | float | bool | None) and not info.validate_default
        return cls(field, field.alias, free, info.is_required() or not simple, info.default)

    def read(self, received: Received, into: Arguments) -> list[Any]:
        """What is wrong with it. By FastAPI, but for what cannot be wrong."""
        given = received.get(self.alias)
        if given is None and not self.required:
            into[self.field.name] = self.default
            return []
        if given is not None and self.free:
            into[self.field.name] = given
            return []
        values, wrong = request_params_to_args([self.field], received)
        into |= values
        return wrong


@dataclass(frozen=True, slots=True)
class Call:
    """A function and where its arguments come from; `needs` are dependencies by the name of the argument, if any."""

    function: Callable[..., Awaitable[Any]]
    needs: tuple[tuple[str | None, "Call"], ...]
    path: tuple[_Parameter, ...]
    query: tuple[_Parameter, ...]
    headers: tuple[_Parameter, ...]
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
            path=tuple(map(_Parameter.of, dependant.path_params)),
            query=tuple(map(_Parameter.of, dependant.query_params)),
            headers=tuple(map(_Parameter.of, dependant.header_params)),
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
        for parameter in self.path:
            errors += parameter.read(request.path_params, arguments)
        for parameter in self.query:
            errors += parameter.read(request.query_params, arguments)
        for parameter in self.headers:
            errors += parameter.read(request.headers, arguments)
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
