"""An event as every client reads it: the one envelope of WebSocket, SSE and JSON."""

from typing import Any

import orjson

from app.domain.changes import Event
from app.domain.events import timestamp_text


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


def envelope_text(execution_id: str, event: Event) -> str:
    """The envelope as one line of JSON."""
    return orjson.dumps(envelope(execution_id, event)).decode()
