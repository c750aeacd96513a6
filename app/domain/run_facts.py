"""The facts that explain where a run is: what its record, its steps, its limits and its mail say of it now."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from app.domain.states import ExecutionStatus, StepStatus

LimitKind = Literal["concurrency", "user", "organization"]


@dataclass(frozen=True, slots=True)
class StepFact:
    """A step that is RUNNING or WAITING; `timeout` is in seconds.

    `topics` and `mode` are those of its `awaits`, without the signals that have come already.
    """

    step_id: str
    status: StepStatus
    attempt: int = 1
    reason: str | None = None
    wake_at: datetime | None = None
    since: datetime | None = None
    error: str | None = None
    error_code: str | None = None
    timeout: float | None = None
    topics: tuple[str, ...] = ()
    mode: str = "any"


@dataclass(frozen=True, slots=True)
class ApprovalFact:
    """An undecided approval; without a step it is the gate of the run. `approved` of `quorum` people have approved."""

    id: str
    title: str
    step_id: str | None = None
    deadline: datetime | None = None
    quorum: int = 1
    approved: int = 0


@dataclass(frozen=True, slots=True)
class SlotLimit:
    """A limit on runs at once, and who holds its slots now (the oldest first, perhaps not all)."""

    kind: LimitKind
    limit: int
    held: int
    holders: tuple[str, ...] = ()

    @property
    def reached(self) -> bool:
        return self.held >= self.limit


@dataclass(frozen=True, slots=True)
class RateFact:
    """A limit on beginnings: `begun` of `limit` within `seconds`, and when the next one is free."""

    limit: int
    seconds: float
    begun: int
    free_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Something people asked of the run that its worker has not taken note of yet."""

    kind: str
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Everything there is to know. `ahead` counts those of its queue before it, None where it does not queue.

    `pause_lifted`: it is still PAUSED, but was told to go on.
    """

    status: ExecutionStatus
    status_reason: str | None = None
    status_message: str | None = None
    error_code: str | None = None
    error: str | None = None
    owned: bool = False
    ready: bool = False
    wake_at: datetime | None = None
    expires_at: datetime | None = None
    last_recorded_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    cancel_grace: float = 0.0
    pause_at: str | None = None
    pause_reason: str | None = None
    pause_detail: str | None = None
    pause_lifted: bool = False
    steps: Sequence[StepFact] = ()
    approvals: Sequence[ApprovalFact] = ()
    requests: Sequence[Request] = ()
    limits: Sequence[SlotLimit] = ()
    rate: RateFact | None = None
    ahead: int | None = None

    def asked(self, *kinds: str) -> bool:
        """Whether one of these requests waits to be taken note of."""
        return any(request.kind in kinds for request in self.requests)
