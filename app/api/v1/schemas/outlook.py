"""What the detail of an execution tells beyond its record: how far it is, when it ends, how it differs."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.domain.rundiff import Divergence
from app.services.insight import Outlook


class DivergenceOut(BaseModel):
    """The first step, in topological order, that was not the same."""

    step_id: str
    what: Literal["reached", "input", "status", "error", "reason", "ports", "output"]
    detail: str


class DiffSummary(BaseModel):
    """How a failed execution differs from the last success of its workflow; `GET …/diff` tells more."""

    other_id: str
    first_divergence: DivergenceOut | None
    definition_changed: bool
    input_changed: bool


class WithOutlook(BaseModel):
    """The fields that a detail has of it."""

    eta: datetime | None = Field(description="When it probably ends; null: not known, or it does not move.")
    progress_weighted: float | None = Field(
        ge=0, le=100, description="Percent by the time the steps took in the last 20 completed runs; null without them."
    )
    diff_summary: DiffSummary | None = Field(description="Of a failed execution with an earlier success.")


def outlook_view(outlook: Outlook) -> dict[str, Any]:
    """The fields of `WithOutlook`."""
    summary = outlook.summary
    return {
        "eta": outlook.estimate.eta,
        "progress_weighted": outlook.estimate.weighted_progress,
        "diff_summary": None
        if summary is None
        else {
            "other_id": summary.other_id,
            "first_divergence": divergence_view(summary.first_divergence),
            "definition_changed": summary.definition_changed,
            "input_changed": summary.input_changed,
        },
    }


def divergence_view(found: Divergence | None) -> dict[str, str] | None:
    return None if found is None else {"step_id": found.step_id, "what": found.what, "detail": found.detail}
