"""From errors to problem answers: the one table between codes and HTTP, and the handlers that use it."""

from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from app.api.headers import rate_headers
from app.api.problems import REGISTRY
from app.api.responses import problem
from app.auth.errors import RateExceeded
from app.domain.errors import MAX_PROBLEMS, Problem, Problems, StepstreamError, Unauthenticated

log = structlog.get_logger("api")

_BY_STATUS = {
    400: "invalid_request",
    401: "missing_credentials",
    403: "insufficient_scope",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    503: "draining",
}

_VALIDATION_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
}


def add_error_handlers(app: FastAPI) -> None:
    """Every error leaves as a problem; nothing of the request's values is echoed. The edge answers the unexpected."""
    for kind in (StepstreamError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, error: Exception) -> Response:
    return answer_to(request, error)


def answer_to(request: Request, error: Exception) -> Response:
    """The problem that an error is to a client; raises one that it is no answer to."""
    match error:
        case StepstreamError():
            return domain_problem(request, error)
        case RequestValidationError():
            return _invalid_request(request, error)
        case HTTPException():
            return _http_error(request, error)
    raise error


def answer(request: HTTPConnection, code: str, detail: str, **more: Any) -> Response:
    """A problem about this request."""
    request_id = request.scope.get("state", {}).get("request_id", "")
    return problem(code, detail, instance=request.scope["path"], request_id=request_id, **more)


def domain_problem(request: HTTPConnection, error: Exception) -> Response:
    """The answer to an error of the domain, also to a handshake; an unregistered code is a bug and becomes a 500."""
    if not isinstance(error, StepstreamError) or error.error_code not in REGISTRY:
        return internal_problem(request, error)
    headers: dict[str, str] = {}
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, round(retry_after)))
    if isinstance(error, RateExceeded):
        headers |= rate_headers(error.standing)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = f'Bearer error="{error.error_code}"'
    errors = error.problems if isinstance(error, Problems) else ()
    return answer(request, error.error_code, error.detail, errors=errors, headers=headers)


def _invalid_request(request: Request, error: RequestValidationError) -> Response:
    if isinstance(error.body, bytes):
        return answer(request, "unsupported_media_type", "The body must be application/json")
    problems = [_validation_problem(item) for item in error.errors()[:MAX_PROBLEMS]]
    first = problems[0]
    return answer(request, "validation_error", f"{first.pointer or 'The request'}: {first.detail}", errors=problems)


def _validation_problem(item: dict[str, Any]) -> Problem:
    where, *path = item["loc"]
    pointer = "".join(f"/{token}" for token in path)
    code = _VALIDATION_CODES.get(item["type"]) or _code_of_value(item["type"], item["input"])
    if where != "body":
        pointer = f"{where}:{'.'.join(str(token) for token in path)}"
    return Problem(code, str(item["msg"]).removeprefix("Value error, "), pointer)


def _code_of_value(kind: str, value: object) -> str:
    if kind == "string_pattern_mismatch" and isinstance(value, str) and not value.isprintable():
        return "invalid_character"
    beyond = isinstance(value, int | float) and abs(value) >= 1 << 63
    return "number_out_of_range" if beyond else "invalid_value"


def _http_error(request: Request, error: HTTPException) -> Response:
    code = _BY_STATUS.get(error.status_code)
    if code is None:
        return internal_problem(request, error)
    detail = REGISTRY[code].title if code in {"not_found", "method_not_allowed"} else str(error.detail)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer(request, code, detail, headers=headers)


def _methods(request: Request) -> set[str]:
    """What a path offers by all its routes, where the framework tells those of the first.

    A path of its own right, such as `/executions/bulk`, is not also taken for that of a thing with this id.
    """
    path = request.scope["path"]
    found = [
        context
        for context in iter_route_contexts(request.app.routes)
        if isinstance(context.original_route, APIRoute) and context.path_regex.match(path)
    ]
    its_own = [context for context in found if context.path_format == path]
    return {method for context in its_own or found for method in context.methods or ()}


def internal_problem(request: HTTPConnection, error: BaseException) -> Response:
    """The answer to a bug of ours, which is logged with the request id."""
    log.error("request_failed", path=request.scope["path"], exc_info=error)
    return answer(request, "internal_error", "Stepstream failed on this request; the log has it under the request id")
