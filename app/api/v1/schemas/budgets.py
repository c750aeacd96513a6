"""Budgets of the day on the wire."""

from datetime import date, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.db.queries.executions import Row
from app.domain.definition import Budget
from app.domain.durations import format_duration


class SetDayBudget(Budget):
    """What may be used on one day (UTC); what is left out is not limited."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"max_cost": 20.0}]})


class Used(BaseModel):
    """What today used so far, as recorded."""

    cost: float = Field(description="US dollars.")
    tokens: int
    steps: int = Field(description="Attempts started.")
    seconds: float = Field(description="What the attempts took, whatever ran beside them.")


class DayBudget(BaseModel):
    """The limits of one day, for all runs of a workflow or of the organisation, and what is used of them.

    A run that wants to start a step when a limit is reached pauses with `budget_exceeded`.
    """

    scope: Literal["organization", "workflow"]
    workflow_id: str | None
    limits: Budget
    day: date
    used: Used
    updated_at: datetime
    updated_by: str


class DayBudgetList(BaseModel):
    data: list[DayBudget]


def day_budget_view(row: Row) -> dict[str, Any]:
    limits = {name: row[name] for name in ("max_cost", "max_tokens", "max_steps") if row[name] is not None}
    if row["max_duration"] is not None:
        limits["max_duration"] = format_duration(row["max_duration"])
    return {
        "scope": "workflow" if row["workflow_id"] else "organization",
        "workflow_id": row["workflow_id"] or None,
        "limits": limits,
        "day": row["day"],
        "used": {
            "cost": row["cost"],
            "tokens": int(row["tokens"]),
            "steps": int(row["steps"]),
            "seconds": round(row["seconds"], 3),
        },
        "updated_at": row["updated_at"],
        "updated_by": row["updated_by"],
    }
