"""What a recorded transition says in the process log and counts in the metrics."""

from contextlib import suppress
from datetime import datetime
from functools import cache

from app import metrics
from app.domain.compiled import CompiledWorkflow
from app.domain.log_lines import log_level, log_lines
from app.engine.transition import Transition
from app.logs import is_heard, log_run


def tell(workflow: CompiledWorkflow, transition: Transition, started_at: datetime | None) -> None:
    """Log and measure what a recorded transition did. Never raises: a closed log fails no run."""
    with suppress(Exception):
        _log(workflow, transition)
        _measure(workflow, transition, started_at)


def _log(workflow: CompiledWorkflow, transition: Transition) -> None:
    name, order = workflow.definition.name, workflow.order
    told = [event for event in transition.events if is_heard(log_level(event))]
    if told:
        log_run(transition.row.id, [line for event in told for line in log_lines(event, name, order)])


def _measure(workflow: CompiledWorkflow, transition: Transition, started_at: datetime | None) -> None:
    for attempt in transition.attempts:
        _attempts(workflow.step(attempt.path).definition.type, attempt.status).inc()
    row = transition.row
    if row.ends:
        _endings(row.status).inc()
        if row.tokens_used:
            metrics.tokens.inc(row.tokens_used)
        if row.cost:
            metrics.cost_usd.inc(row.cost)
        if started_at is not None:
            metrics.execution_duration.observe((row.recorded_at - started_at).total_seconds())


# Finding a counter by its labels costs more than counting.
_endings = cache(metrics.executions_finished.labels)
_attempts = cache(metrics.step_attempts.labels)
