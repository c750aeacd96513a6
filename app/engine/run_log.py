"""What a recorded transition says in the process log and counts in the metrics."""

from contextlib import suppress
from datetime import datetime
from functools import cache

from prometheus_client import Counter

from app import metrics
from app.domain.compiled import CompiledWorkflow
from app.domain.log_lines import log_lines
from app.engine.transition import Transition
from app.logs import log_run


def tell(workflow: CompiledWorkflow, transition: Transition, started_at: datetime | None) -> None:
    """Log and measure what a recorded transition did. Never raises: a closed log fails no run."""
    with suppress(Exception):
        _log(workflow, transition)
        _measure(workflow, transition, started_at)


def _log(workflow: CompiledWorkflow, transition: Transition) -> None:
    name, order = workflow.definition.name, workflow.order
    log_run(transition.execution_id, [line for event in transition.events for line in log_lines(event, name, order)])


def _measure(workflow: CompiledWorkflow, transition: Transition, started_at: datetime | None) -> None:
    for attempt in transition.attempts:
        _attempts(workflow.step(attempt.path).definition.type, attempt.status).inc()
    row = transition.row
    if row.ends:
        metrics.executions_finished.labels(row.status).inc()
        metrics.tokens.inc(row.tokens_used or 0)
        metrics.cost_usd.inc(row.cost or 0)
        if started_at is not None:
            metrics.execution_duration.observe((row.recorded_at - started_at).total_seconds())


@cache
def _attempts(step_type: str, status: str) -> Counter:
    """Finding a counter by its labels costs more than counting."""
    return metrics.step_attempts.labels(step_type, status)
