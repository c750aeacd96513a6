"""Keyset pages: opaque signed cursors, `{data, next_cursor, has_more}`, `Link: rel="next"`."""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

from fastapi import Query
from starlette.requests import Request

from app.api.responses import Json
from app.domain.errors import Problem, Problems

Row = TypeVar("Row")

Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before.")]

_MAC_BYTES = 16


class Cursors:
    """Signs cursors, bound to the organisation and the route they were made for."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, position: str, scope: str) -> str:
        """A cursor that stands behind `position`."""
        return urlsafe_b64encode(self._mac(position, scope) + position.encode()).decode().rstrip("=")

    def read(self, cursor: str | None, scope: str) -> str | None:
        """The position of a cursor; raises Problems for one that was not made here."""
        if cursor is None:
            return None
        try:
            position = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))[_MAC_BYTES:].decode()
        except ValueError:
            position = ""
        # All of it is compared, not what it decodes to: a cursor has one spelling.
        if not hmac.compare_digest(cursor.encode(), self.make(position, scope).encode()):
            detail = "The cursor was not made by this list"
            raise Problems(detail, [Problem("invalid_cursor", detail, "query:cursor")], code="invalid_cursor")
        return position

    def _mac(self, position: str, scope: str) -> bytes:
        return hmac.digest(self._key, f"{scope}\x00{position}".encode(), sha256)[:_MAC_BYTES]


def page_answer(
    request: Request,
    rows: Sequence[Row],
    limit: int,
    *,
    view: Callable[[Row], dict[str, Any]],
    position: Callable[[Row], str],
    scope: str,
) -> Json:
    """The answer to a list: `rows` has one more than `limit` if there is a next page."""
    shown = rows[:limit]
    more = len(rows) > limit
    next_cursor = request.app.state.cursors.make(position(shown[-1]), scope) if more else None
    headers = {}
    if next_cursor is not None:
        kept = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
        headers["Link"] = f'<{request.scope["path"]}?{urlencode([*kept, ("cursor", next_cursor)])}>; rel="next"'
    body = {"data": [view(row) for row in shown], "next_cursor": next_cursor, "has_more": more}
    return Json(body, headers=headers)
