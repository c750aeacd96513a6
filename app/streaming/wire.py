"""An event as every client reads it: the one envelope of WebSocket, SSE and JSON."""

from typing import Any

import orjson

from app.domain.changes import Event
from app.domain.events import timestamp_text


class WireEvent:
    """An event on its way to its readers; its text is made once, for the first of them."""

    __slots__ = ("_text", "event", "execution_id", "seq", "type")

    def __init__(self, execution_id: str, event: Event) -> None:
        self.execution_id = execution_id
        self.event = event
        self.seq = event.seq
        self.type = event.type
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The envelope as one line of JSON."""
        if self._text is None:
            self._text = orjson.dumps(envelope(self.execution_id, self.event)).decode()
        return self._text


def envelope(execution_id: str, event: Event) -> dict[str, Any]:
    """The envelope as a JSON object."""
    return {
        "seq": event.seq,
        "type": event.type,
        "execution_id": execution_id,
        "step_id": event.step_id,
        "timestamp": timestamp_text(event.timestamp),
        "progress": event.progress,
        "data": event.data,
    }
