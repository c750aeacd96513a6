"""What users' data went in and came out of runs is shown to who has `payloads.read` alone; others get blanks for it.

Error messages are no payloads: who repairs a run needs them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.db.queries.executions import Row
from app.domain.changes import Event
from app.domain.events import EventData
from app.streaming.wire import WireEvent

_BLANK: Mapping[str, str | None] = {
    "input_data": "null",
    "output": None,
    "agent_results": "{}",
    "input": None,
    "awaits": None,
}
"""Columns of executions and steps that hold payloads, and what stands for them."""

_SAID: Mapping[str, Mapping[str, Any]] = {
    "step_log": {"message": ""},
    "step_progress": {"message": ""},
    "token_delta": {"text": ""},
    "tool_call": {"arguments": None},
}
"""Data of events that tell payloads, by type."""


def may_read(caller: Caller) -> bool:
    """Whether payloads are for this caller's eyes."""
    return caller.principal.allows(Permission.PAYLOADS_READ)


def shown(caller: Caller, row: Row) -> Row:
    """An execution or a step as the caller may see it."""
    return row if may_read(caller) else {name: _BLANK.get(name, value) for name, value in row.items()}


def all_shown(caller: Caller, rows: Sequence[Row]) -> Sequence[Row]:
    """Executions or steps as the caller may see them."""
    return rows if may_read(caller) else [shown(caller, row) for row in rows]


def events_shown(caller: Caller, events: Sequence[Event]) -> Sequence[Event]:
    """Events as the caller may see them."""
    if may_read(caller):
        return events
    return [_event_shown(event) for event in events]


def stream_shown(caller: Caller, events: Sequence[WireEvent]) -> Sequence[WireEvent]:
    """Events on their way as the caller may see them; those that tell no payload stay the same ones."""
    if may_read(caller):
        return events
    return [
        WireEvent(each.execution_id, _event_shown(each.event)) if each.type in _SAID else each for each in events
    ]  # fmt: skip


def _event_shown(event: Event) -> Event:
    if event.type not in _SAID:
        return event
    return event._replace(data=cast("EventData", {**event.data, **_SAID[event.type]}))
