"""What the engine needs from the world. `app.db` and `app.streaming` implement it; the roots wire them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from app.domain.evolution import Event
from app.domain.jsontext import JSON
from app.engine.transition import Transition


@dataclass(frozen=True, slots=True)
class NewExecution:
    """An execution to be accepted. `idempotency_key` and `fingerprint` come together or not at all."""

    id: str
    org_id: str
    workflow_id: str
    workflow_version: int
    user_id: str
    input_text: str
    labels_text: str
    priority: int
    ip_address: str | None
    user_agent: str | None
    request_id: str | None
    queued_event_data: str
    audit_id: str
    idempotency_key: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The PENDING row, its first event and its audit row are durable."""

    created_at: datetime


@dataclass(frozen=True, slots=True)
class AlreadyAccepted:
    """The idempotency key already stands for this execution, started by a request with this fingerprint."""

    execution_id: str
    fingerprint: str


class Recorded:
    """The transition is durable, and its events are published."""


class LeaseLost:
    """Nothing was written: this process no longer owns the execution. Normal, not an error."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The database refuses this very transition (not its neighbours, not the connection); nothing was written."""

    reason: str


RecordResult: TypeAlias = Recorded | LeaseLost | Rejected


class Recorder(Protocol):
    """The one writer of execution, step, attempt and event rows."""

    async def create(self, new: NewExecution) -> Accepted | AlreadyAccepted:
        """Accept an execution; raises Unavailable if the database does not answer in time."""

    async def record(self, transition: Transition) -> RecordResult:
        """Write one transition through the fence; waits out an unavailable database."""


@dataclass(frozen=True, slots=True)
class Mail:
    """Something that reached an execution from outside."""

    id: str
    kind: str
    payload: JSON
    user_id: str | None


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A step as last recorded; texts are JSON."""

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


@dataclass(frozen=True, slots=True)
class Claim:
    """An execution that is now ours, as last recorded. `claimed_at` is the database's time of the claim."""

    id: str
    org_id: str
    workflow_id: str
    workflow_version: int
    user_id: str
    root_id: str
    status: str
    input_text: str
    agent_results_text: str
    progress: int
    created_at: datetime
    started_at: datetime | None
    deadline_at: datetime | None
    last_recorded_at: datetime | None
    owner: str
    epoch: int
    write_no: int
    next_seq: int
    recoveries: int
    claimed_at: datetime
    steps: Sequence[StoredStep] = ()
    mail: Sequence[Mail] = ()


class ExecutionQueue(Protocol):
    """Executions that wait for an owner."""

    async def claim(self, worker_id: str, limit: int) -> list[Claim]:
        """Take up to `limit` claimable executions; each claim raises the lease epoch."""

    async def release(self, worker_id: str, keep: Sequence[str]) -> int:
        """Hand back what this worker owns, all but `keep`; returns how many executions."""

    async def mail(self, execution_id: str) -> list[Mail]:
        """Unread mail of one execution, oldest first."""

    async def with_mail(self, worker_id: str) -> list[str]:
        """Ids of this worker's executions that have unread mail."""


class WorkerRegistry(Protocol):
    """Leases of worker processes, on a connection of their own."""

    async def register(self, worker_id: str, ttl: float) -> None:
        """Enter a new worker with a lease of `ttl` seconds."""

    async def renew(self, worker_id: str, ttl: float) -> bool:
        """Prolong the lease; False: it was taken away, and with it everything the worker owned."""

    async def rescue(self, worker_id: str, *, expired: bool) -> int:
        """Hand back to the queue what dead workers owned; returns how many executions.

        Dead are those whose process is gone from this machine and, with `expired`, those whose lease ran out.
        """

    async def retire(self, worker_id: str) -> None:
        """Give back everything this worker owns, and its lease."""


class DefinitionSource(Protocol):
    """Stored workflow versions."""

    async def definition(self, org_id: str, workflow_id: str, version: int) -> JSON:
        """The document of a version, None if there is none."""


class EventBus(Protocol):
    """Where committed events go."""

    def publish(self, execution_id: str, events: Sequence[Event]) -> None:
        """Pass on events that are durable. Never blocks, never raises."""


Channel: TypeAlias = Literal["events", "inbox", "work"]


class Doorbell(Protocol):
    """Wake-ups between processes. They may be lost: whoever listens also polls."""

    def on_ring(self, channel: Channel, callback: Callable[[Sequence[str]], None]) -> None:
        """Call back with execution ids (none: something rang, look at everything)."""


class EventLog(Protocol):
    """The durable events."""

    async def read(self, org_id: str, execution_id: str, after: int, limit: int) -> Sequence[Event]:
        """Events with seq > after, in order, at most `limit`."""

    async def heads(self, execution_ids: Sequence[str]) -> Mapping[str, int]:
        """The highest recorded seq of each execution."""

    async def ended(self, org_id: str, execution_id: str) -> bool:
        """True once the execution's terminal event is recorded."""
