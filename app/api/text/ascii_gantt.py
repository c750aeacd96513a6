"""An execution as a chart for terminals, at most 100 columns wide."""

import textwrap
from collections.abc import Iterator
from datetime import datetime

from app.api.text.escaping import fitted, one_line
from app.api.text.steps import StepLine, moment, seconds_between, step_lines, took, workflow_name
from app.domain.states import StepStatus
from app.services.executions import ExecutionDetail

COLUMNS = 100
_NAME, _STATUS, _TIME = 26, 9, 8
_BAR = COLUMNS - _NAME - _STATUS - _TIME - 5
_ERROR_LINES = 4
_FACT = 10
_MARKS = {"COMPLETED": "#", "FAILED": "x", "LOST": "x", "CANCELLED": "/", "RUNNING": "=", "WAITING": "~"}
_LEGEND = "# done  x failed  / cancelled  = running  ~ waiting  . between attempts"


def ascii_gantt(detail: ExecutionDetail, now: datetime) -> str:
    """Status, error, and a bar for every step on one scale of time."""
    return "".join(f"{line.rstrip()}\n" for line in _lines(detail, now))


def _lines(detail: ExecutionDetail, now: datetime) -> Iterator[str]:
    row = detail.row
    start, end = row["started_at"] or row["created_at"], row["completed_at"] or now
    yield _fact(row["status"], f"{row['id']}, {row['progress']} %")
    yield _fact("workflow", f"{workflow_name(detail)} ({row['workflow_id']} v{row['workflow_version']})")
    began = f"started {moment(row['started_at'])}" if row["started_at"] else f"queued since {moment(row['created_at'])}"
    yield _fact("time", f"{took(seconds_between(start, end))}, {began}")
    if row["status_reason"] and row["error"] is None:
        yield from _wrapped("why", ": ".join(filter(None, (row["status_reason"], row["status_message"]))))
    if row["error"] is not None:
        yield from _wrapped("error", f"{row['error_code']}: {row['error']}")
    yield ""
    total = max((end - start).total_seconds(), 1e-6)
    scale = took(total)
    yield f"{'STEP':<{_NAME}} {'STATUS':<{_STATUS}}  0{scale:>{_BAR - 1}}  {'TIME':>{_TIME}}"
    for step in step_lines(detail):
        time = took(seconds_between(step.start, step.end or (now if step.start else None)))
        bar = _bar(step, start, total, end)
        yield f"{fitted(step.step_id, _NAME)} {fitted(step.status.value, _STATUS)} |{bar}| {time:>{_TIME}}"
    yield ""
    yield _LEGEND


def _wrapped(name: str, text: str) -> Iterator[str]:
    lines = textwrap.wrap(one_line(text), COLUMNS - _FACT - 1, max_lines=_ERROR_LINES, placeholder=" ...")
    for number, line in enumerate(lines):
        yield _fact(name if number == 0 else "", line)


def _fact(name: str, text: str) -> str:
    return f"{name:<{_FACT}} {fitted(text, COLUMNS - _FACT - 1)}"


def _bar(step: StepLine, start: datetime, total: float, end: datetime) -> str:
    if step.start is None or step.reused:
        why = step.reason if step.status is StepStatus.SKIPPED else "reused" if step.reused else None
        return fitted(why or "", _BAR)
    cells = [" "] * _BAR

    def draw(begin: datetime, until: datetime, mark: str) -> None:
        first = int(min(max((begin - start).total_seconds() / total, 0.0), 1.0) * _BAR)
        last = int(min(max((until - start).total_seconds() / total, 0.0), 1.0) * _BAR)
        first = min(first, _BAR - 1)
        for place in range(first, max(last, first + 1)):
            cells[place] = mark

    # A step that has no attempts of its own, as a `for_each` whose items have them, is at it all the time.
    draw(step.start, step.end or end, "." if step.attempts else _MARKS.get(step.status.value, "#"))
    for begin, until, status in step.attempts:
        draw(begin, until or end, _MARKS.get(status, "#"))
    return "".join(cells)
