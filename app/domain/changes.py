"""What one transition adds to the record of a run, in the order it happened."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from app.domain.budgets import NOTHING_SPENT, Spent
from app.domain.decisions import StartStep
from app.domain.errors import Failure
from app.domain.events import EventData
from app.domain.snapshot import Snapshot
from app.domain.states import AttemptStatus, ExecutionStatus
from app.domain.step_state import StepState
from app.domain.waits import ApprovalWait


class Event(NamedTuple):
    """One event as recorded; see `app.domain.events` for the types and their data."""

    seq: int
    type: str
    step_id: str | None
    timestamp: datetime
    progress: int
    data: EventData


class EndedAttempt(NamedTuple):
    """One attempt as recorded when it ended."""

    path: str
    attempt: int
    status: AttemptStatus
    failure: Failure | None
    started_at: datetime | None
    completed_at: datetime
    trace: str | None = None


class Ending(NamedTuple):
    """How the run ended: exactly one of output and failure has a meaning, by the status. `step_id` failed first."""

    status: ExecutionStatus
    output_text: str | None
    failure: Failure | None
    step_id: str | None = None


@dataclass(frozen=True, slots=True)
class ApprovalChange:
    """An approval asked for (PENDING) or settled; `path` is None for the gate of the run itself."""

    approval: ApprovalWait
    path: str | None
    status: str
    deadline: datetime | None


@dataclass(slots=True)
class Changes:
    """`used` are letters with the path that used them, `orphans` the executions that nobody waits for any more.

    `read` are the ids of mail that was new.
    """

    steps: dict[str, StepState] = field(default_factory=dict)
    attempts: list[EndedAttempt] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    starts: list[StartStep] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    used: list[tuple[str, str]] = field(default_factory=list)
    approvals: list[ApprovalChange] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    ending: Ending | None = None
    began: bool = False
    thawed: bool = False
    spent: Spent = NOTHING_SPENT

    def spend(self, steps: int = 0, seconds: float = 0.0, tokens: int = 0, cost: float = 0.0) -> None:
        """Something more was used."""
        self.spent = self.spent.plus(steps, seconds, tokens, cost)


def note(
    snapshot: Snapshot, now: datetime, changes: Changes, kind: str, data: EventData, step_id: str | None = None
) -> None:
    """Add an event with the next seq."""
    changes.events.append(Event(snapshot.next_seq, kind, step_id, now, snapshot.progress, data))
    snapshot.next_seq += 1
