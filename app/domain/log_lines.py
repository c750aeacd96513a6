"""The log of a run, told from its events: one place for the words people grep for."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from app.domain.changes import Event

Level = Literal["debug", "info", "warning", "error"]


class LogLine(NamedTuple):
    """One line; `scope` is `workflow` or the id of a step."""

    level: Level
    scope: str
    message: str

    def text(self, execution_id: str) -> str:
        """The human form."""
        return f"[{self.level.upper()}] [{execution_id}] [{self.scope}] {self.message}"


def log_lines(event: Event, name: str, order: list[str]) -> list[LogLine]:
    """What an event says in the log of a run of the workflow `name`, whose steps run in `order`."""
    data: Mapping[str, Any] = event.data
    step, scope = data.get("step_name"), event.step_id or "workflow"
    match event.type:
        case "execution_started":
            return [
                LogLine("info", "workflow", f"Starting workflow '{name}'"),
                LogLine("info", "workflow", f"Execution order: {' → '.join(order)}"),
            ]
        case "step_started":
            return [LogLine("info", scope, f"Executing step '{step}'")]
        case "step_retrying":
            return [LogLine("warning", scope, f"Next attempt in {data['delay_ms']} ms: {data['error_message']}")]
        case "step_failed":
            return [LogLine("error", scope, f"Step '{step}' failed: {data['error_message']}")]
        case "step_skipped":
            return [LogLine("info", scope, f"Step '{step}' is skipped: {data['reason']}")]
        case "step_log":
            return [LogLine(data["level"], scope, data["message"])]
        case "step_reused":
            return [LogLine("info", scope, f"Step '{step}' is reused from {data['reused_from']}")]
        case "step_pinned":
            return [LogLine("info", scope, f"Step '{step}' has the output it was given")]
        case "step_edited":
            return [LogLine("warning", scope, f"The output of step '{step}' was edited by {data['edited_by']}")]
        case "step_cancelled":
            return [LogLine("warning", scope, f"Step '{step}' is cancelled")]
        case "signal_received":
            return [LogLine("info", "workflow", f"Signal '{data['name']}' has come")]
        case "approval_requested":
            return [LogLine("info", scope, f"Waiting for approval: {data['title']}")]
        case "approval_decided":
            return [LogLine("info", scope, f"A decision by {data['decided_by']}: {data['decision']}")]
        case "budget_exceeded":
            used = f"{data['used']:g} of {data['limit']:g} are used"
            return [LogLine("warning", scope, f"The budget {data['budget']} is used up: {used}")]
        case "execution_paused":
            return [LogLine("warning", "workflow", f"Paused: {data['detail'] or data['reason']}")]
        case "execution_resumed":
            return [LogLine("info", "workflow", f"Going on: {data['reason']}")]
        case "execution_cancelling":
            return [LogLine("warning", "workflow", f"Stopping: {data['reason'] or 'a cancellation was asked for'}")]
        case "execution_failed":
            return [LogLine("error", "workflow", f"Stopping workflow '{name}': {data['error_message']}")]
        case "execution_cancelled":
            return [LogLine("warning", "workflow", f"Stopping workflow '{name}': cancelled")]
        case "execution_completed":
            return [LogLine("info", "workflow", f"Workflow '{name}' completed")]
        case _:
            return []
