"""What all text forms tell of the steps of an execution."""

from dataclasses import dataclass
from datetime import datetime

from app.db.queries.executions import Row
from app.domain.states import StepStatus
from app.services.executions import ExecutionDetail


@dataclass(frozen=True, slots=True)
class StepLine:
    """One step. `attempts` are (start, end or None, status) of those that were made, in order.

    A reused one ran in another execution, and its times are of then.
    """

    step_id: str
    number: int
    name: str
    type: str
    status: StepStatus
    start: datetime | None
    end: datetime | None
    attempts: tuple[tuple[datetime, datetime | None, str], ...]
    attempt: int
    reason: str | None
    error: str | None
    error_code: str | None
    wake_at: datetime | None
    ports: frozenset[str]
    reused: bool = False


def step_lines(detail: ExecutionDetail) -> list[StepLine]:
    """All steps in topological order, those not reached yet as PENDING; items of a `for_each` are left out."""
    made: dict[str, list[Row]] = {}
    for attempt in detail.attempts:
        made.setdefault(attempt["path"], []).append(attempt)
    lines = {row["path"]: _line(row, made.get(row["path"], [])) for row in detail.steps if "[" not in row["path"]}
    for step in detail.workflow.steps if detail.workflow is not None else ():
        if step.id not in lines:
            lines[step.id] = StepLine(
                step.id, step.number, step.definition.title, step.definition.type, StepStatus.PENDING,
                None, None, (), 0, None, None, None, None, frozenset(),
            )  # fmt: skip
    return sorted(lines.values(), key=lambda line: (line.number, line.step_id))


def _line(row: Row, made: list[Row]) -> StepLine:
    status = StepStatus(row["status"])
    attempts = [(one["started_at"], one["completed_at"], one["status"]) for one in made if one["started_at"]]
    under_way = status is StepStatus.RUNNING or (status is StepStatus.WAITING and len(made) < row["attempt"])
    if under_way and row["attempt_started_at"] is not None:
        attempts.append((row["attempt_started_at"], None, status.value))
    return StepLine(
        step_id=row["path"],
        number=row["step_number"],
        name=row["name"],
        type=row["type"],
        status=status,
        start=row["started_at"],
        end=row["completed_at"],
        attempts=tuple(attempts),
        attempt=row["attempt"],
        reason=row["reason"],
        error=row["error"],
        error_code=row["error_code"],
        wake_at=row["wake_at"],
        ports=frozenset(row["ports"]),
        reused=row["reused_from"] is not None,
    )


def took(seconds: float | None) -> str:
    """A length of time in at most eight characters."""
    if seconds is None:
        return ""
    seconds = max(seconds, 0.0)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    if seconds < 100 * 60:
        return f"{int(seconds // 60)}m {int(seconds % 60):02}s"
    if seconds < 100 * 3600:
        return f"{int(seconds // 3600)}h {int(seconds % 3600 // 60):02}m"
    return f"{int(seconds // 86400)}d {int(seconds % 86400 // 3600):02}h"


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else (end - start).total_seconds()


def workflow_name(detail: ExecutionDetail) -> str:
    return detail.workflow.definition.name if detail.workflow is not None else str(detail.row["workflow_id"])


def moment(at: datetime | None) -> str:
    """A time to the second, in UTC."""
    return "" if at is None else at.strftime("%Y-%m-%d %H:%M:%SZ")
