"""Executions made from earlier ones, on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from app.api.v1.schemas.control import Reason
from app.api.v1.schemas.executions import Breakpoints, Pins
from app.domain.states import ExecutionStatus
from app.services.lineage import Lineage, ReplayRequest, RetryRequest

StepPath = Annotated[str, StringConstraints(min_length=1, max_length=80)]


class Retry(BaseModel):
    """What to do again, and on which version of the workflow."""

    model_config = ConfigDict(extra="forbid")

    from_step: StepPath | None = Field(
        default=None, description="A step or one item (`map[3]`); none: whatever did not end well."
    )
    version: Literal["same", "latest"] = "same"
    redo_once: StrictBool = Field(
        default=False, description="Also repeat steps downstream that must happen once and did."
    )
    reason: Reason = None

    def asked(self, idempotency_key: str | None) -> RetryRequest:
        return RetryRequest(self.from_step, self.version, self.redo_once, self.reason, idempotency_key)


class Replay(BaseModel):
    """What to run again, and with what."""

    model_config = ConfigDict(extra="forbid")

    from_step: StepPath | None = Field(default=None, description="A step or one item (`map[3]`); none: from the start.")
    input: Any = Field(
        default=None,
        description="Another input, seen by the steps that run again; what is reused keeps its output. "
        "Left out: the same.",
    )
    version: Literal["same", "latest"] = "same"
    pins: Pins | None = Field(default=None, description="Outputs of steps by id; left out: those of the execution.")
    redo_once: StrictBool = Field(
        default=False, description="Also repeat steps downstream that must happen once and did."
    )
    breakpoints: Breakpoints = Field(default_factory=list, description="Steps to pause before.")
    reason: Reason = None

    def asked(self, idempotency_key: str | None) -> ReplayRequest:
        return ReplayRequest(
            from_step=self.from_step,
            input=self.input,
            edits_input="input" in self.model_fields_set,
            version=self.version,
            pins=self.pins,
            breakpoints=self.breakpoints,
            redo_once=self.redo_once,
            reason=self.reason,
            idempotency_key=idempotency_key,
        )


class RunStep(BaseModel):
    """What one step run alone sees: the input of the run, and the outputs of other steps."""

    model_config = ConfigDict(extra="forbid")

    input: Any = Field(default=None, description="Any JSON; checked against the workflow's `input` schema.")
    outputs: Pins = Field(default_factory=dict, description="Outputs of the steps before it, by id.")


class Kin(BaseModel):
    """One execution of a line."""

    id: str
    workflow_id: str
    status: ExecutionStatus
    retry_of: str | None
    forked_from: str | None
    parent_id: str | None
    created_at: datetime


class LineageAnswer(BaseModel):
    """The executions of one root and those that they started, the oldest first, at most 200."""

    root_id: str
    data: list[Kin]


def lineage_view(lineage: Lineage) -> dict[str, Any]:
    names = tuple(Kin.model_fields)
    return {"root_id": lineage.root_id, "data": [{name: row[name] for name in names} for row in lineage.rows]}
