"""What a run says in the process log, told from its committed events: one place for the words people grep for."""

from contextlib import suppress

import structlog

from app import metrics
from app.domain.compiled import CompiledWorkflow
from app.domain.evolution import Event
from app.engine.transition import Transition

log = structlog.get_logger("run")


def tell(workflow: CompiledWorkflow, transition: Transition) -> None:
    """Log and measure what a recorded transition did. Never raises: a closed log fails no run."""
    with suppress(Exception):
        _tell(workflow, transition)


def _tell(workflow: CompiledWorkflow, transition: Transition) -> None:
    for event in transition.events:
        _tell_event(workflow, transition.execution_id, event)
    for attempt in transition.attempts:
        metrics.step_attempts.labels(workflow.by_id[attempt.path].definition.type, attempt.status).inc()
    if transition.ending is not None:
        metrics.executions_finished.labels(transition.status.value).inc()
        metrics.tokens.inc(transition.tokens_used or 0)
        metrics.cost_usd.inc(transition.cost or 0)


def _tell_event(workflow: CompiledWorkflow, execution_id: str, event: Event) -> None:
    data = event.data
    match event.type:
        case "execution_started":
            _say("info", execution_id, None, f"Starting workflow '{workflow.definition.name}'")
            order = " → ".join(step.id for step in workflow.steps)
            _say("info", execution_id, None, f"Execution order: {order}")
        case "step_started":
            _say("info", execution_id, event.step_id, f"Executing step '{data.get('step_name')}'")
        case "step_retrying":
            message = f"Attempt failed, next in {data.get('delay_ms')} ms: {data.get('error_message')}"
            _say("warning", execution_id, event.step_id, message)
        case "step_failed":
            _say(
                "error",
                execution_id,
                event.step_id,
                f"Step '{data.get('step_name')}' failed: {data.get('error_message')}",
            )
        case "step_log":
            _say(str(data.get("level")), execution_id, event.step_id, str(data.get("message")))
        case "execution_failed":
            _say(
                "error",
                execution_id,
                None,
                f"Stopping workflow '{workflow.definition.name}': {data.get('error_message')}",
            )
        case "execution_cancelled":
            _say("warning", execution_id, None, f"Stopping workflow '{workflow.definition.name}': cancelled")
        case "execution_completed":
            _say("info", execution_id, None, f"Workflow '{workflow.definition.name}' completed")


def _say(level: str, execution_id: str, step_id: str | None, message: str) -> None:
    getattr(log, level)(message, execution_id=execution_id, scope=step_id or "workflow")
