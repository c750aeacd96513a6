"""The log of a run, told from its events: one place for the words people grep for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from app.domain.changes import Event

Level = Literal["debug", "info", "warning", "error"]
Words: TypeAlias = Callable[[Mapping[str, Any], str], str]
"""From the data of an event, and the name of the workflow."""


class LogLine(NamedTuple):
    """One line; `scope` is `workflow` or the id of a step."""

    level: Level
    scope: str
    message: str

    def text(self, execution_id: str) -> str:
        """The human form."""
        return f"[{self.level.upper()}] [{execution_id}] [{self.scope}] {self.message}"


def log_level(event: Event) -> Level | None:
    """How much an event's lines matter; None if it has none."""
    known = _LINES.get(event.type)
    if known is None:
        return None
    data: Mapping[str, Any] = event.data
    level: Level = data.get("level", known[0])
    return level


def log_lines(event: Event, name: str, order: Sequence[str]) -> list[LogLine]:
    """What an event says in the log of a run of the workflow `name`, whose steps run in `order`."""
    level = log_level(event)
    if level is None:
        return []
    scope = "workflow" if event.type.startswith(_OF_THE_RUN) else event.step_id or "workflow"
    lines = [LogLine(level, scope, _LINES[event.type][1](event.data, name))]
    if event.type == "execution_started":
        lines.append(LogLine(level, "workflow", f"Execution order: {' → '.join(order)}"))
    return lines


_OF_THE_RUN = ("execution_", "signal_")
# What a step says has a level of its own, which goes before that of its kind.
_LINES: Mapping[str, tuple[Level, Words]] = {
    "execution_started": ("info", lambda _, name: f"Starting workflow '{name}'"),
    "execution_paused": ("warning", lambda data, _: f"Paused: {data['detail'] or data['reason']}"),
    "execution_resumed": ("info", lambda data, _: f"Going on: {data['reason']}"),
    "execution_cancelling": (
        "warning", lambda data, _: f"Stopping: {data['reason'] or 'a cancellation was asked for'}"
    ),
    "execution_failed": ("error", lambda data, name: f"Stopping workflow '{name}': {data['error_message']}"),
    "execution_cancelled": ("warning", lambda _, name: f"Stopping workflow '{name}': cancelled"),
    "execution_completed": ("info", lambda _, name: f"Workflow '{name}' completed"),
    "signal_received": ("info", lambda data, _: f"Signal '{data['name']}' has come"),
    "step_started": ("info", lambda data, _: f"Executing step '{data['step_name']}'"),
    "step_log": ("info", lambda data, _: data["message"]),
    "step_retrying": ("warning", lambda data, _: f"Next attempt in {data['delay_ms']} ms: {data['error_message']}"),
    "step_failed": ("error", lambda data, _: f"Step '{data['step_name']}' failed: {data['error_message']}"),
    "step_skipped": ("info", lambda data, _: f"Step '{data['step_name']}' is skipped: {data['reason']}"),
    "step_reused": ("info", lambda data, _: f"Step '{data['step_name']}' is reused from {data['reused_from']}"),
    "step_pinned": ("info", lambda data, _: f"Step '{data['step_name']}' has the output it was given"),
    "step_edited": (
        "warning", lambda data, _: f"The output of step '{data['step_name']}' was edited by {data['edited_by']}"
    ),
    "step_cancelled": ("warning", lambda data, _: f"Step '{data['step_name']}' is cancelled"),
    "approval_requested": ("info", lambda data, _: f"Waiting for approval: {data['title']}"),
    "approval_decided": ("info", lambda data, _: f"A decision by {data['decided_by']}: {data['decision']}"),
    "budget_exceeded": (
        "warning",
        lambda data, _: f"The budget {data['budget']} is used up: {data['used']:g} of {data['limit']:g} are used",
    ),
}  # fmt: skip
