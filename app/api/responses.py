"""Answers: JSON by orjson with stored JSON passed through untouched, and RFC 9457 problems."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.responses import Response

from app.api.problems import REGISTRY
from app.domain.errors import Problem

NO_STORE = {"Cache-Control": "no-store"}


def stored(text: str | None) -> orjson.Fragment | None:
    """Stored JSON text as a value of an answer, neither parsed nor re-encoded."""
    return None if text is None else orjson.Fragment(text)


class Json(Response):
    """A JSON answer; times become RFC 3339 UTC with `Z`."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_UTC_Z)


class ProblemJson(Json):
    """An RFC 9457 problem."""

    media_type = "application/problem+json"


def problem(
    code: str,
    detail: str,
    *,
    instance: str,
    request_id: str,
    errors: Sequence[Problem] = (),
    headers: Mapping[str, str] | None = None,
) -> ProblemJson:
    """The problem answer of a registered code; values of the request are never echoed."""
    kind = REGISTRY[code]
    body = {
        "type": f"/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "request_id": request_id,
        "retryable": kind.retryable,
        "errors": [{"pointer": error.pointer, "code": error.code, "detail": error.detail} for error in errors],
    }
    return ProblemJson(body, kind.status, headers=NO_STORE | dict(headers or {}))
