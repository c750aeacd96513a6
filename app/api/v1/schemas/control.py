"""What people ask of running executions, on the wire."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StringConstraints, model_validator

from app.api.v1.schemas.executions import Breakpoints, Labels
from app.api.v1.schemas.moments import Moment
from app.domain.definition import Budget
from app.domain.mail import MAX_REASON
from app.domain.waits import SIGNAL_PATTERN
from app.services.bulk import BulkAction, BulkResult
from app.services.control import SentSignal

Reason = Annotated[str, StringConstraints(max_length=MAX_REASON, pattern=r"^[^\x00]*$")] | None
SignalName = Annotated[str, StringConstraints(pattern=SIGNAL_PATTERN)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class ControlRequest(BaseModel):
    """Why a person asks for it; shown in events and the audit log."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "Wrong input"}]})

    reason: Reason = None


class SendSignal(BaseModel):
    """A signal. Of those with the same name and `dedupe_key`, an execution gets one."""

    model_config = ConfigDict(extra="forbid")

    name: SignalName
    payload: Any = Field(default=None, description="Any JSON; the output of the step that waits for it has it.")
    dedupe_key: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00]*$")] | None = None


class Signal(BaseModel):
    """A signal as stored; `duplicate`: `signal_id` is that of an earlier one with the same name and dedupe key."""

    signal_id: str
    execution_id: str
    name: str
    duplicate: bool


class SetBreakpoints(BaseModel):
    """The steps to pause before; an empty list removes all."""

    model_config = ConfigDict(extra="forbid")

    steps: Breakpoints


class EditOutput(BaseModel):
    """The output a step is to have."""

    model_config = ConfigDict(extra="forbid")

    output: Any = Field(description="Any JSON.")
    reason: Reason = None


class SetBudget(Budget):
    """Limits of one execution; those left out, or null, stay as they are."""

    reason: Reason = None

    def limits(self) -> Budget:
        return Budget.model_validate(self.model_dump(exclude={"reason"}))


class BulkFilter(BaseModel):
    """Which executions; everything given narrows, and something must."""

    model_config = ConfigDict(extra="forbid")

    status: list[str] = Field(
        default_factory=list, max_length=20, description="Any case; `queued` and `success` are PENDING and COMPLETED."
    )
    workflow_id: Id | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    labels: Labels = Field(default_factory=dict)
    fingerprint: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    ids: list[Id] | None = Field(default=None, max_length=1_000)
    retry_of: Id | None = None
    parent_id: Id | None = None
    root_id: Id | None = Field(default=None, description="This execution and its retries and replays.")

    @model_validator(mode="after")
    def _narrows(self) -> "BulkFilter":
        if self.ids is None and not any(value for value in self.model_dump().values()):
            raise ValueError(f"give at least one of {', '.join(BulkFilter.model_fields)}")
        return self


class BulkRequest(BaseModel):
    """One wish for all executions that match."""

    model_config = ConfigDict(extra="forbid")

    action: BulkAction
    filter: BulkFilter
    reason: Reason = None
    dry_run: StrictBool = Field(default=False, description="Only count.")
    expected_count: StrictInt | None = Field(
        default=None, ge=0, description="Refuse (`count_changed`) if another number matches by now."
    )


class NotRetried(BaseModel):
    """An execution for which no new one was made, and why."""

    execution_id: str
    code: str
    detail: str


class BulkAnswer(BaseModel):
    """`matched` could be asked, `applied` were; of the lists at most 100 each."""

    action: BulkAction
    matched: int
    applied: int
    dry_run: bool
    execution_ids: list[str]
    new_execution_ids: list[str] = Field(description="What a retry made.")
    failures: list[NotRetried]


def signal_view(signal: SentSignal) -> dict[str, Any]:
    return {
        "signal_id": signal.id,
        "execution_id": signal.execution_id,
        "name": signal.name,
        "duplicate": signal.duplicate,
    }


def bulk_view(result: BulkResult) -> dict[str, Any]:
    return {
        "action": result.request.action,
        "matched": result.matched,
        "applied": result.applied,
        "dry_run": result.request.dry_run,
        "execution_ids": list(result.execution_ids),
        "new_execution_ids": list(result.new_execution_ids),
        "failures": [
            {"execution_id": failure.execution_id, "code": failure.code, "detail": failure.detail}
            for failure in result.failures
        ],
    }
