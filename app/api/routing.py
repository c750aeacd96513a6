"""Routers as every resource makes them: strict bodies, documented problems, no redirects."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from app.api.problems import REGISTRY
from app.api.request import StrictRoute
from app.api.v1.schemas.problem import Problem

_TARGET = ("uri_too_long", "invalid_path", "unknown_parameter", "duplicate_parameter")
_JSON_BODY = ("json_too_deep", "number_out_of_range", "unsupported_content_encoding")
_ALWAYS = (
    "missing_credentials", "invalid_token", "insufficient_scope", "body_too_large", "rate_limited", "overloaded",
    "database_unavailable",
)  # fmt: skip


def router(prefix: str, tag: str) -> APIRouter:
    """A router of one resource."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=StrictRoute)


def problems(*codes: str, public: bool = False) -> dict[int | str, dict[str, Any]]:
    """The documented problem answers of an operation.

    Added are those of every route, of every protected one unless `public`, and of bodies where `invalid_json` is named.
    """
    by_status: dict[int, list[str]] = {}
    of_body = _JSON_BODY if "invalid_json" in codes else ()
    for code in dict.fromkeys((*codes, *of_body, *_TARGET, *(() if public else _ALWAYS))):
        by_status.setdefault(REGISTRY[code].status, []).append(code)
    return {status: _documented(found) for status, found in sorted(by_status.items())}


def _documented(codes: list[str]) -> dict[str, Any]:
    examples: Mapping[str, Any] = {code: {"summary": REGISTRY[code].title, "value": _example(code)} for code in codes}
    return {
        "description": "; ".join(f"`{code}`: {REGISTRY[code].title}" for code in codes),
        "model": Problem,
        "content": {"application/problem+json": {"examples": examples}},
    }


def _example(code: str) -> dict[str, Any]:
    kind = REGISTRY[code]
    return {
        "type": f"/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.help,
        "instance": "/api/v1/…",
        "code": code,
        "request_id": "req_01k…",
        "retryable": kind.retryable,
        "errors": [],
    }
