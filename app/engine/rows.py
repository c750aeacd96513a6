"""The rows of steps and what else goes with a transition; their texts are JSON."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStep:
    """What the next owner reads of a step, or of an item of one."""

    path: str
    status: str
    attempt: int
    failures: int
    input_text: str | None
    output_text: str | None
    ports: frozenset[str]
    error: str | None
    error_code: str | None
    reason: str | None
    wake_at: datetime | None
    started_at: datetime | None
    attempt_started_at: datetime | None
    completed_at: datetime | None
    execution_time_ms: float | None
    tokens_used: int
    cost: float
    awaits_text: str | None = None
    reused_from: str | None = None
    iteration: int = 0
    items: int | None = None
    edited_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow(StoredStep):
    """A step as it is written: also with what it is called, for whoever reads the record."""

    number: int
    name: str
    type: str

    @property
    def ports_text(self) -> str:
        return ",".join(sorted(self.ports))


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An ended attempt as it is to be stored."""

    path: str
    attempt: int
    status: str
    error: str | None
    error_code: str | None
    started_at: datetime | None
    completed_at: datetime
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class MailMark:
    """Mail that is taken note of; a letter also by the path that used it (empty: the gate of the run)."""

    mail_id: str
    used_by: str | None = None


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """An approval as it is to be stored; texts are JSON."""

    id: str
    path: str | None
    status: str
    title: str
    message: str | None
    form_text: str | None
    deciders_text: str
    quorum: int
    deadline_at: datetime | None


@dataclass(frozen=True, slots=True)
class OutgoingMail:
    """Mail to another execution; `payload_text` is JSON."""

    id: str
    execution_id: str
    kind: str
    payload_text: str


@dataclass(frozen=True, slots=True)
class FailureHandler:
    """The execution of another workflow that a failure starts; ids are of its row and its audit row."""

    id: str
    audit_id: str
    workflow_id: str
    input_text: str
