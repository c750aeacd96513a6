"""The rows that go with a transition, and what is read back of a step; texts are JSON.

What is written is a named tuple whose fields are, name by name and in this order, the attributes of a type of the
database (`app.db.record_sql` says which): so a row is sent as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class ExecutionRow(NamedTuple):
    """The fence (owner, epoch, write_no) and the execution's new values.

    None in `started_at`, `deadline_at`, `tokens_used`, `cost`, `graph_text`, `agent_results_text` and `control_text`
    leaves the stored value. `releases` gives up ownership; `ready`, that the execution then wants to go on at once.
    `fingerprint` tells failures of one kind.
    """

    id: str
    owner: str
    epoch: int
    write_no: int
    status: str
    status_reason: str | None
    status_message: str | None
    progress: int
    next_seq: int
    recorded_at: datetime
    started_at: datetime | None = None
    deadline_at: datetime | None = None
    wake_at: datetime | None = None
    tokens_used: int | None = None
    cost: float | None = None
    graph_text: str | None = None
    agent_results_text: str | None = None
    control_text: str | None = None
    settles_step: bool = False
    releases: bool = False
    ready: bool = False
    ends: bool = False
    output_text: str | None = None
    error: str | None = None
    error_code: str | None = None
    fingerprint: str | None = None


class StepRow(NamedTuple):
    """A step, or an item of one, as it is to be stored; `ports` are None where none were taken."""

    execution_id: str
    path: str
    number: int
    name: str
    type: str
    status: str
    attempt: int
    failures: int
    input_text: str | None
    output_text: str | None
    ports: Sequence[str] | None
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


class AttemptRow(NamedTuple):
    """An ended attempt as it is to be stored."""

    execution_id: str
    path: str
    attempt: int
    status: str
    error: str | None
    error_code: str | None
    started_at: datetime | None
    completed_at: datetime
    trace: str | None = None


class EventRow(NamedTuple):
    """An event as it is to be stored."""

    execution_id: str
    seq: int
    type: str
    step_id: str | None
    timestamp: datetime
    progress: int
    data_text: str


class UsageRow(NamedTuple):
    """What was used since the transition before."""

    execution_id: str
    steps: int
    seconds: float
    tokens: int
    cost: float


class EndRow(NamedTuple):
    """That an execution has ended: the id of the closing audit row, and to which executions it writes itself."""

    execution_id: str
    audit_id: str
    told: Sequence[str]


class MailMark(NamedTuple):
    """Mail that is taken note of; a letter also by the path that used it (empty: the gate of the run)."""

    execution_id: str
    mail_id: str
    used_by: str | None = None


class ApprovalRow(NamedTuple):
    """An approval as it is to be stored."""

    execution_id: str
    id: str
    path: str | None
    status: str
    title: str
    message: str | None
    form_text: str | None
    deciders_text: str
    quorum: int
    deadline_at: datetime | None


class OutgoingMail(NamedTuple):
    """Mail to another execution, the `receiver`."""

    execution_id: str
    id: str
    receiver: str
    kind: str
    payload_text: str


class FailureHandler(NamedTuple):
    """The execution of another workflow that a failure starts; ids are of its row and its audit row."""

    execution_id: str
    id: str
    audit_id: str
    workflow_id: str
    input_text: str


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
