"""An execution as a summary to paste into a ticket."""

from collections.abc import Iterator
from datetime import datetime
from urllib.parse import quote

from app.api.text.escaping import code, code_cell
from app.api.text.steps import StepLine, moment, seconds_between, step_lines, took, workflow_name
from app.services.executions import ExecutionDetail

_LONGEST = 300


def markdown(detail: ExecutionDetail, now: datetime) -> str:
    """Figures, error, a table of steps, links. Everything a user wrote stands in code spans."""
    return "".join(f"{line}\n" for line in _lines(detail, now))


def _lines(detail: ExecutionDetail, now: datetime) -> Iterator[str]:
    row = detail.row
    url = f"/api/v1/executions/{quote(row['id'], safe='')}"
    yield f"# {row['status']}: {code(workflow_name(detail))}"
    yield ""
    yield f"- Execution: {code(row['id'])}"
    yield f"- Workflow: {code(row['workflow_id'])}, version {row['workflow_version']}"
    yield f"- Progress: {row['progress']} %"
    yield f"- Created: {moment(row['created_at'])}"
    if row["started_at"] is not None:
        yield f"- Started: {moment(row['started_at'])}"
    if row["completed_at"] is not None:
        yield f"- Ended: {moment(row['completed_at'])}"
    length = took(seconds_between(row["started_at"], row["completed_at"] or now))
    if length:
        yield f"- Duration: {length}"
    if row["tokens_used"]:
        yield f"- Usage: {row['tokens_used']} tokens, {row['cost']:.6f} USD"
    if row["status_reason"] and row["error"] is None:
        said = row["status_message"]
        yield f"- Why: {code(row['status_reason'])}" + (f" {code(said[:_LONGEST])}" if said else "")
    if row["error"] is not None:
        yield ""
        yield f"**Error** {code(row['error_code'] or '')}: {code(row['error'])}"
    yield ""
    yield "| # | Step | Type | Status | Attempts | Time | Note |"
    yield "|--:|------|------|--------|---------:|-----:|------|"
    for step in step_lines(detail):
        yield _row(step, now)
    yield ""
    links = ("explain", "timeline", "events", "logs")
    yield " · ".join([f"[record]({url})", *(f"[{name}]({url}/{name})" for name in links)])


def _row(step: StepLine, now: datetime) -> str:
    time = took(seconds_between(step.start, step.end or (now if step.start else None)))
    note = f"{step.error_code}: {step.error}" if step.error is not None else "reused" if step.reused else step.reason
    cells = (
        str(step.number),
        code_cell(step.step_id),
        code_cell(step.type),
        step.status.value,
        str(step.attempt),
        time,
        code_cell(note[:_LONGEST]) if note else "",
    )
    return f"| {' | '.join(cells)} |"
