"""Starting executions and reading them."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from app import clock, metrics
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.db.queries import executions as queries
from app.db.queries.executions import ExecutionFilter, Row
from app.db.tenancy import Tenancy
from app.db.workflow_source import WorkflowSource
from app.domain.carry import is_approval
from app.domain.compiled import CompiledWorkflow, Slots
from app.domain.context import run_context
from app.domain.errors import Conflict, NotFound, Problem, Problems, StepError
from app.domain.expressions import escape
from app.domain.jsontext import JSON, encode
from app.domain.states import ExecutionStatus
from app.engine.definitions import Definitions, invalid
from app.engine.ports import Accepted, AlreadyAccepted, NewExecution, Recorder
from app.engine.transition import queued_event_data
from app.services.payloads import all_shown, shown

FURTHEST_START = timedelta(days=366)
NO_SUCH_EXECUTION = "There is no such execution"


@dataclass(frozen=True, slots=True)
class Origin:
    """The execution that a new one repairs (`retry`) or replays, and the paths of the steps it takes over.

    `asked` is what the client asked for; it belongs to the request's fingerprint, as what comes of it does not.
    """

    source_id: str
    root_id: str
    retry: bool
    carried: Sequence[str]
    asked: JSON


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What a client asks for. `idempotency_key` makes repeating the request safe for 24 hours.

    `version` None: the one that new executions use. `queue_ttl` is in seconds. `control` holds `breakpoints`, `pins`,
    `only` and `budget`, each left out when there is none.
    """

    workflow_id: str
    input: JSON = None
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    idempotency_key: str | None = None
    start_at: datetime | None = None
    queue_ttl: float | None = None
    control: Mapping[str, JSON] = field(default_factory=dict)
    version: int | None = None
    origin: Origin | None = None

    def fingerprint(self) -> str:
        """Tells whether a repeated request is the same one."""
        parts: list[JSON] = [self.workflow_id, self.input, dict(sorted(self.labels.items())), self.priority]
        options: dict[str, JSON] = {
            "start_at": None if self.start_at is None else self.start_at.isoformat(),
            "queue_ttl": self.queue_ttl,
            "control": dict(self.control),
            "origin": None if self.origin is None else [self.origin.source_id, self.origin.retry, self.origin.asked],
        }
        # Options that are not used are left out, so that keys of requests without them stay what they were.
        used: dict[str, JSON] = {name: value for name, value in options.items() if value not in (None, {})}
        if used:
            parts.append(used)
        return hashlib.sha256(encode(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Started:
    """The execution as first accepted; `replayed` if an earlier request with the same key had started it."""

    row: Row
    replayed: bool


@dataclass(frozen=True, slots=True)
class ExecutionDetail:
    """An execution with its steps and ended attempts, and the definition it runs; items of steps are left out.

    `traces`: the caller may see stack traces.
    """

    row: Row
    steps: Sequence[Row]
    attempts: Sequence[Row]
    workflow: CompiledWorkflow | None
    traces: bool


@dataclass(frozen=True, slots=True)
class StepRecords:
    """Some steps or items of an execution and their ended attempts; `traces`: the caller may see stack traces."""

    steps: Sequence[Row]
    attempts: Sequence[Row]
    traces: bool


class Executions:
    """The use cases about executions. `nudge` tells the local engine that there is something to claim."""

    def __init__(
        self,
        *,
        tenancy: Tenancy,
        workflows: WorkflowSource,
        definitions: Definitions,
        recorder: Recorder,
        nudge: Callable[[], None],
    ) -> None:
        self._tenancy = tenancy
        self._workflows = workflows
        self._definitions = definitions
        self._recorder = recorder
        self._nudge = nudge

    async def start(self, caller: Caller, request: StartRequest) -> Started:
        """Accept an execution: durable on return.

        Raises NotFound for an unknown workflow, Conflict for an archived one, Problems for a workflow that cannot run
        (`workflow_invalid`), an input that does not fit (`input_schema_mismatch`), options that name unknown steps, or
        a key that stands for another request (`idempotency_key_reused`).
        """
        workflow, version = await self.startable(caller, request.workflow_id, request.version)
        if missing := self._definitions.missing_setup(workflow):
            raise invalid(missing)
        if problems := workflow.input_problems(request.input):
            detail = f"The input does not fit the workflow: {problems[0].detail}"
            raise Problems(detail, _under("/input", problems), code="input_schema_mismatch")
        if problems := [*_unknown_steps(workflow, request.control), *_start_problems(request.start_at)]:
            raise Problems(f"{problems[0].pointer}: {problems[0].detail}", problems)
        new = _new_execution(caller, request, workflow, version)
        match await self._recorder.create(new):
            case Accepted(created_at):
                metrics.executions_started.inc()
                self._nudge()
                row = _accepted_row(new, created_at, request.labels)
                # Who sent the input sees it again; that of a retry or a replay is another's.
                return Started(row if request.origin is None else shown(caller, row), replayed=False)
            case AlreadyAccepted() as earlier:
                return await self._replay(caller, request, earlier)

    async def startable(
        self, caller: Caller, workflow_id: str, version: int | None = None
    ) -> tuple[CompiledWorkflow, int]:
        """A version of a workflow that takes new executions, by default the one they use, and its number.

        Raises NotFound, Conflict for an archived workflow, Problems (`workflow_invalid`) for a version that cannot run.
        """
        head = await self._workflows.head(caller.org_id, workflow_id)
        if head is None:
            raise NotFound("There is no such workflow")
        if head.archived:
            raise Conflict("The workflow is archived and starts no new executions")
        number = head.version if version is None else version
        return await self._definitions.get(caller.org_id, workflow_id, number), number

    async def _replay(self, caller: Caller, request: StartRequest, earlier: AlreadyAccepted) -> Started:
        if earlier.fingerprint != request.fingerprint():
            detail = "This Idempotency-Key was used for a request with another workflow, input or options"
            raise Problems(detail, [Problem("idempotency_key_reused", detail)], code="idempotency_key_reused")
        row = await self.get(caller, earlier.execution_id)
        return Started(row | AS_ACCEPTED | {"wake_at": request.start_at}, replayed=True)

    async def get(self, caller: Caller, execution_id: str) -> dict[str, Any]:
        """One execution; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return dict(shown(caller, await find_execution(connection, caller.org_id, execution_id)))

    async def detail(self, caller: Caller, execution_id: str) -> ExecutionDetail:
        """One execution with its steps and attempts; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await find_execution(connection, caller.org_id, execution_id)
            steps = await queries.steps_of(connection, caller.org_id, execution_id)
            attempts = await queries.attempts_of(connection, caller.org_id, execution_id)
        workflow = await self.workflow_of(row)
        return ExecutionDetail(shown(caller, row), all_shown(caller, steps), attempts, workflow, _may_trace(caller))

    async def step(self, caller: Caller, execution_id: str, path: str) -> ExecutionDetail:
        """One step, or one item (`map[3]`), with its attempts; no steps if it has no record. Raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await find_execution(connection, caller.org_id, execution_id)
            found = await queries.step_of(connection, caller.org_id, execution_id, path)
            attempts = await queries.attempts_of(connection, caller.org_id, execution_id, [path])
        steps = [] if found is None else [shown(caller, found)]
        workflow = await self.workflow_of(row)
        return ExecutionDetail(shown(caller, row), steps, attempts, workflow, _may_trace(caller))

    async def items(
        self,
        caller: Caller,
        execution_id: str,
        step_id: str,
        statuses: frozenset[str],
        *,
        after: str | None,
        limit: int,
    ) -> StepRecords:
        """A page of a step's items behind the one with the path `after`, by index; raises NotFound."""
        row = await self.get(caller, execution_id)
        workflow = await self.workflow_of(row)
        async with self._tenancy.transaction(caller.org_id) as connection:
            known = workflow is not None and step_id in workflow.by_id
            if not known and await queries.step_of(connection, caller.org_id, execution_id, step_id) is None:
                raise NotFound("There is no such step")
            items = await queries.items_of(
                connection, caller.org_id, execution_id, step_id, statuses, after=after or "", limit=limit
            )
            paths = [item["path"] for item in items]
            attempts = await queries.attempts_of(connection, caller.org_id, execution_id, paths)
        return StepRecords(all_shown(caller, items), attempts, _may_trace(caller))

    async def workflow_of(self, row: Row) -> CompiledWorkflow | None:
        """The definition an execution runs, None if it cannot be read any more."""
        return await self._definitions.of_record(row["org_id"], row["workflow_id"], row["workflow_version"])

    async def page(self, caller: Caller, wanted: ExecutionFilter, *, before: str | None, limit: int) -> Sequence[Row]:
        """The organisation's executions, the newest first."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            rows = await queries.page(connection, caller.org_id, wanted, before=before, limit=limit)
        return all_shown(caller, rows)

    async def metrics(self, caller: Caller, wanted: ExecutionFilter) -> Sequence[Row]:
        """Counts, durations, tokens and cost by status."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return await queries.status_counts(connection, caller.org_id, wanted)


async def find_execution(connection: AsyncConnection, org_id: str, execution_id: str) -> Row:
    """One execution of an organisation; raises NotFound."""
    row = await queries.get(connection, org_id, execution_id)
    if row is None:
        raise NotFound(NO_SUCH_EXECUTION)
    return row


AS_ACCEPTED: dict[str, Any] = {
    "status": ExecutionStatus.PENDING.value,
    "status_reason": None,
    "status_message": None,
    "output": None,
    "error": None,
    "error_code": None,
    "agent_results": "{}",
    "execution_graph": "{}",
    "tokens_used": 0,
    "cost": 0.0,
    "duration_seconds": None,
    "progress": 0,
    "wake_at": None,
    "started_at": None,
    "completed_at": None,
}
"""What every execution says of itself when it has just been accepted."""


def _new_execution(caller: Caller, request: StartRequest, workflow: CompiledWorkflow, version: int) -> NewExecution:
    origin = request.origin
    execution_id = clock.new_id("exec")
    queue_ttl = workflow.definition.queue_ttl if request.queue_ttl is None else request.queue_ttl
    return NewExecution(
        id=execution_id,
        org_id=caller.org_id,
        workflow_id=request.workflow_id,
        workflow_version=version,
        user_id=caller.user_id,
        input_text=encode(request.input),
        labels_text=encode(dict(request.labels)),
        priority=request.priority,
        ip_address=caller.ip_address,
        user_agent=caller.user_agent,
        request_id=caller.request_id,
        queued_event_data=queued_event_data(request.workflow_id, version),
        audit_id=clock.new_id("audit"),
        idempotency_key=request.idempotency_key,
        fingerprint=request.fingerprint() if request.idempotency_key else "",
        root_id=None if origin is None else origin.root_id,
        retry_of=origin.source_id if origin is not None and origin.retry else None,
        forked_from=origin.source_id if origin is not None and not origin.retry else None,
        carried_from=None if origin is None else origin.source_id,
        carried=() if origin is None else origin.carried,
        control_text=encode(dict(request.control)),
        start_at=request.start_at,
        queue_ttl=queue_ttl,
        slots=_slots(caller, request, workflow, version, execution_id),
    )


def _slots(caller: Caller, request: StartRequest, workflow: CompiledWorkflow, version: int, execution_id: str) -> Slots:
    """The limits the execution comes under; raises Problems if their keys cannot be computed from its input."""
    context = run_context(
        execution_id=execution_id,
        workflow_id=request.workflow_id,
        workflow_version=version,
        org_id=caller.org_id,
        user_id=caller.user_id,
        created_at=clock.now(),
    )
    try:
        return workflow.limits(request.input, context)
    except StepError as error:
        detail = f"The workflow's limits cannot be applied to this input: {error.detail}"
        raise Problems(detail, [Problem(error.error_code, detail, "/input")]) from error


def _accepted_row(new: NewExecution, created_at: datetime, labels: dict[str, str]) -> Row:
    return AS_ACCEPTED | {
        "id": new.id,
        "org_id": new.org_id,
        "workflow_id": new.workflow_id,
        "workflow_version": new.workflow_version,
        "user_id": new.user_id,
        "input_data": new.input_text,
        "labels": labels,
        "retry_of": new.retry_of,
        "forked_from": new.forked_from,
        "parent_id": new.parent_id,
        "wake_at": new.start_at,
        "created_at": created_at,
    }


def _unknown_steps(workflow: CompiledWorkflow, control: Mapping[str, Any]) -> list[Problem]:
    problems = unknown_steps(workflow, "/breakpoints", control.get("breakpoints", ()))
    problems += unknown_outputs(workflow, "/pins", control.get("pins", ()))
    if control.get("only") is None:
        problems += _pinned_approvals(workflow, control.get("pins", ()))
    if (only := control.get("only")) is not None:
        problems += _unknown(workflow, only, "/version")
    return problems


def _pinned_approvals(workflow: CompiledWorkflow, names: Iterable[str]) -> list[Problem]:
    """Who could pin an approval could approve his own run."""
    detail = "People decide on an approval: it cannot be pinned"
    asked = (name for name in names if name in workflow.by_id and is_approval(workflow.by_id[name]))
    return [Problem("invalid_value", detail, f"/pins/{name}") for name in asked]


def unknown_steps(workflow: CompiledWorkflow, pointer: str, names: Iterable[str]) -> list[Problem]:
    """The names of a list that no step of the workflow has."""
    return [problem for index, name in enumerate(names) for problem in _unknown(workflow, name, f"{pointer}/{index}")]


def unknown_outputs(workflow: CompiledWorkflow, pointer: str, names: Iterable[str]) -> list[Problem]:
    """The names of an object of outputs that no step of the workflow has."""
    return [problem for name in names for problem in _unknown(workflow, name, f"{pointer}/{escape(name)}")]


def _unknown(workflow: CompiledWorkflow, name: str, pointer: str) -> list[Problem]:
    if name in workflow.by_id:
        return []
    return [Problem("unknown_step", "The workflow has no such step in the version that is run", pointer)]


def _start_problems(start_at: datetime | None) -> list[Problem]:
    if start_at is None or start_at <= clock.now() + FURTHEST_START:
        return []
    return [Problem("invalid_value", "An execution starts within 366 days", "/start_at")]


def _may_trace(caller: Caller) -> bool:
    return caller.principal.allows(Permission.TRACES_READ)


def _under(pointer: str, problems: Sequence[Problem]) -> list[Problem]:
    return [Problem(problem.code, problem.detail, pointer + problem.pointer) for problem in problems]
