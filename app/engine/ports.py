"""What the engine needs from the world. `app.db` and `app.streaming` implement it; the roots wire them."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, Protocol, TypeAlias

from app.domain.budgets import SharedBudget
from app.domain.carry import EarlierStep
from app.domain.changes import Event
from app.domain.compiled import NO_LIMITS, Slots
from app.domain.jsontext import JSON
from app.domain.mail import Mail
from app.domain.secrets import StoredSecret
from app.engine.rows import StoredStep
from app.engine.transition import Transition


@dataclass(frozen=True, slots=True)
class Origin:
    """The execution that a new one repairs (`retry`) or runs again: steps with the paths `carried` are taken over."""

    source_id: str | None = None
    root_id: str | None = None
    retry: bool = False
    carried: Sequence[str] = ()

    @property
    def retry_of(self) -> str | None:
        return self.source_id if self.retry else None

    @property
    def forked_from(self) -> str | None:
        return None if self.retry else self.source_id


FRESH = Origin()
"""Begins anew: takes nothing over, and is its own root."""


class NewExecution(NamedTuple):
    """An execution to be accepted. `idempotency_key` and `fingerprint` come together or not at all.

    `parent_path` is the step that waits for it. `start_at` and `queue_ttl` (seconds after that) bound its beginning.
    """

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
    origin: Origin = FRESH
    parent_id: str | None = None
    parent_path: str | None = None
    depth: int = 0
    control_text: str = "{}"
    start_at: datetime | None = None
    queue_ttl: float | None = None
    slots: Slots = NO_LIMITS

    @property
    def may_begin(self) -> bool:
        """It begins anew and waits for no time and under no limit of its own."""
        limited = self.slots.concurrency_key is not None or self.slots.rate_key is not None
        return self.origin is FRESH and self.start_at is None and not limited


class Accepted(NamedTuple):
    """The PENDING row, its first event and its audit row are durable; `owned` by the worker it was accepted for."""

    created_at: datetime
    owned: bool = False


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

    async def create(self, new: NewExecution, worker_id: str | None = None) -> Accepted | AlreadyAccepted:
        """Accept an execution, for a worker or for whoever claims it.

        Raises Unavailable if the database does not answer in time.
        """

    async def kept(self, org_id: str, key: str) -> AlreadyAccepted | None:
        """What an idempotency key stands for; raises Unavailable."""

    def record(self, transition: Transition) -> Awaitable[RecordResult]:
        """Write one transition through the fence; waits out an unavailable database."""

    async def settled(self) -> None:
        """Wait until every transition given so far is written, or known not to be."""


class Claim(NamedTuple):
    """An execution that is now ours, as last recorded. `claimed_at` is the database's time of the claim.

    `keyed`: it holds a slot that others may wait for by name, or has used up some of a rate. With `may_run` it holds a
    slot; without, it was claimed only to take its mail in, or for the `verdict` of a limit:
    `queue_expired`, `concurrency_skipped` or `concurrency_cancelled`.
    """

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
    may_run: bool = True
    verdict: str | None = None
    control_text: str = "{}"
    wake_at: datetime | None = None
    parent_id: str | None = None
    depth: int = 0
    priority: int = 0
    keyed: bool = False


def first_claim(new: NewExecution, worker_id: str, created_at: datetime) -> Claim:
    """That of an execution which was accepted as a worker's own."""
    return Claim(
        id=new.id,
        org_id=new.org_id,
        workflow_id=new.workflow_id,
        workflow_version=new.workflow_version,
        user_id=new.user_id,
        root_id=new.id,
        status="PENDING",
        input_text=new.input_text,
        agent_results_text="{}",
        progress=0,
        created_at=created_at,
        started_at=None,
        deadline_at=None,
        last_recorded_at=None,
        owner=worker_id,
        epoch=1,
        write_no=0,
        next_seq=2,
        recoveries=0,
        claimed_at=created_at,
        control_text=new.control_text,
        parent_id=new.parent_id,
        depth=new.depth,
        priority=new.priority,
    )


class ExecutionQueue(Protocol):
    """Executions that wait for an owner."""

    @property
    def limited(self) -> bool:
        """Users or organisations have a limit of slots, so that every slot is given by a claim."""

    @property
    def nobody_waits(self) -> bool:
        """The last claim found nobody who waits for a slot, or left nobody waiting."""

    async def claim(self, worker_id: str, limit: int, suspects: int) -> list[Claim]:
        """Take up to `limit` executions that are ready and have a slot; each claim raises the lease epoch.

        At most `suspects` of them are running ones whose workers died under them again and again.
        """

    async def claim_called(self, worker_id: str, limit: int) -> list[Claim]:
        """Take up to `limit` sleeping or queued executions that have unread mail, without a slot to run."""

    async def release(self, worker_id: str, kept: Callable[[], Collection[str]]) -> int:
        """Hand back what this worker owns, all but what is `kept`, which may change; returns how many executions."""

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


@dataclass(frozen=True, slots=True)
class WorkflowHead:
    """The version that new executions use: the published one, else the newest draft."""

    version: int
    archived: bool


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """An execution that has ended, and how its steps did; texts are JSON."""

    id: str
    root_id: str
    status: str
    input_text: str
    control_text: str
    steps: Sequence[EarlierStep]


class EarlierRuns(Protocol):
    """Executions that have ended."""

    async def child(self, org_id: str, root_id: str, path: str, workflow_id: str) -> EarlierRun | None:
        """The newest execution of the workflow that this step started in any run of the root, and waited for."""


class DefinitionSource(Protocol):
    """Stored workflow versions."""

    async def head(self, org_id: str, workflow_id: str) -> WorkflowHead | None:
        """None if the organisation has no such workflow."""

    async def definition(self, org_id: str, workflow_id: str, version: int) -> JSON:
        """The document of a version, None if there is none."""


@dataclass(frozen=True, slots=True)
class CachedResult:
    """An earlier result of a step; `output_text` is its JSON."""

    output_text: str
    ports: frozenset[str]


class ResultCache(Protocol):
    """Results that may be used again. Losing it costs time only."""

    async def get(self, org_id: str, key: str) -> CachedResult | None:
        """None if there is none, or none that is young enough."""

    async def put(self, org_id: str, key: str, result: CachedResult, ttl: float) -> None:
        """Keep a result for `ttl` seconds."""


class SecretVault(Protocol):
    """Secrets of the organisations, sealed where they are kept."""

    async def open(self, org_id: str, names: Sequence[str]) -> Sequence[StoredSecret]:
        """Those of the named secrets that the organisation has, opened; raises Unavailable."""

    async def note_use(self, org_id: str, names: Sequence[str]) -> None:
        """These were used now; raises Unavailable."""


class BudgetBook(Protocol):
    """Budgets of the day and what was used of them."""

    async def read(self) -> Mapping[tuple[str, str | None], SharedBudget]:
        """All that are set, by organisation and workflow; None in place of the workflow: the whole organisation."""


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

    async def read(
        self, org_id: str, execution_id: str, after: int, limit: int, step_id: str | None = None
    ) -> Sequence[Event]:
        """Events with seq > after, in order, at most `limit`; with `step_id` those of a step and its items."""

    async def heads(self, execution_ids: Sequence[str]) -> Mapping[str, int]:
        """The highest recorded seq of each execution."""

    async def ended(self, org_id: str, execution_id: str) -> bool:
        """True once the execution's terminal event is recorded."""
