"""Starting executions, reading them, and what people ask of them while they run."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app import clock, metrics
from app.auth.principal import Caller
from app.db.queries import executions as queries
from app.db.queries.executions import ExecutionFilter, Row
from app.db.tenancy import Tenancy
from app.db.workflow_source import WorkflowSource
from app.domain.compiled import CompiledWorkflow
from app.domain.errors import Conflict, NotFound, Problem, Problems, clean_text
from app.domain.jsontext import JSON, encode
from app.domain.states import ExecutionStatus
from app.engine.definitions import Definitions, invalid
from app.engine.ports import Accepted, AlreadyAccepted, NewExecution, Recorder
from app.engine.transition import queued_event_data
from app.services.audit import Audit


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What a client asks for. `idempotency_key` makes repeating the request safe for 24 hours."""

    workflow_id: str
    input: JSON = None
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    idempotency_key: str | None = None

    def fingerprint(self) -> str:
        """Tells whether a repeated request is the same one."""
        parts = encode([self.workflow_id, self.input, dict(sorted(self.labels.items())), self.priority])
        return hashlib.sha256(parts.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Started:
    """The execution as first accepted; `replayed` if an earlier request with the same key had started it."""

    row: Row
    replayed: bool


@dataclass(frozen=True, slots=True)
class ExecutionDetail:
    """An execution with its steps and ended attempts, and the definition it runs."""

    row: Row
    steps: Sequence[Row]
    attempts: Sequence[Row]
    workflow: CompiledWorkflow | None


class Executions:
    """The use cases about executions. `nudge` tells the local engine that there is something to claim."""

    def __init__(
        self,
        *,
        tenancy: Tenancy,
        workflows: WorkflowSource,
        definitions: Definitions,
        recorder: Recorder,
        audit: Audit,
        nudge: Callable[[], None],
    ) -> None:
        self._tenancy = tenancy
        self._workflows = workflows
        self._definitions = definitions
        self._recorder = recorder
        self._audit = audit
        self._nudge = nudge

    async def start(self, caller: Caller, request: StartRequest) -> Started:
        """Accept an execution: durable on return.

        Raises NotFound for an unknown workflow, Conflict for an archived one, Problems for a workflow that cannot run
        (`workflow_invalid`), an input that does not fit (`input_schema_mismatch`), or a key that stands for another
        request (`idempotency_key_reused`).
        """
        head = await self._workflows.head(caller.org_id, request.workflow_id)
        if head is None:
            raise NotFound("There is no such workflow")
        if head.archived:
            raise Conflict("The workflow is archived and starts no new executions")
        workflow = await self._definitions.get(caller.org_id, request.workflow_id, head.version)
        if missing := self._definitions.missing_setup(workflow):
            raise invalid(missing)
        if problems := workflow.input_problems(request.input):
            detail = f"The input does not fit the workflow: {problems[0].detail}"
            raise Problems(detail, _under("/input", problems), code="input_schema_mismatch")
        new = _new_execution(caller, request, head.version)
        match await self._recorder.create(new):
            case Accepted(created_at):
                metrics.executions_started.inc()
                self._nudge()
                return Started(_accepted_row(new, created_at, request.labels), replayed=False)
            case AlreadyAccepted() as earlier:
                return await self._replay(caller, request, earlier)

    async def _replay(self, caller: Caller, request: StartRequest, earlier: AlreadyAccepted) -> Started:
        if earlier.fingerprint != request.fingerprint():
            detail = "This Idempotency-Key was used for a request with another workflow, input or options"
            raise Problems(detail, [Problem("idempotency_key_reused", detail)], code="idempotency_key_reused")
        row = await self.get(caller, earlier.execution_id)
        return Started(row | AS_ACCEPTED, replayed=True)

    async def get(self, caller: Caller, execution_id: str) -> dict[str, Any]:
        """One execution; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await queries.get(connection, caller.org_id, execution_id)
        if row is None:
            raise NotFound("There is no such execution")
        return dict(row)

    async def detail(self, caller: Caller, execution_id: str) -> ExecutionDetail:
        """One execution with its steps and attempts; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await queries.get(connection, caller.org_id, execution_id)
            if row is None:
                raise NotFound("There is no such execution")
            steps = await queries.steps_of(connection, caller.org_id, execution_id)
            attempts = await queries.attempts_of(connection, caller.org_id, execution_id)
        return ExecutionDetail(row, steps, attempts, await self.workflow_of(row))

    async def workflow_of(self, row: Row) -> CompiledWorkflow | None:
        """The definition an execution runs, None if it cannot be read any more."""
        try:
            return await self._definitions.get(row["org_id"], row["workflow_id"], row["workflow_version"])
        except Problems:
            return None  # the step types it used are no longer there; the record still is

    async def page(self, caller: Caller, wanted: ExecutionFilter, *, before: str | None, limit: int) -> Sequence[Row]:
        """The organisation's executions, the newest first."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return await queries.page(connection, caller.org_id, wanted, before=before, limit=limit)

    async def metrics(self, caller: Caller, wanted: ExecutionFilter) -> Sequence[Row]:
        """Counts, durations, tokens and cost by status."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return await queries.status_counts(connection, caller.org_id, wanted)

    async def cancel(self, caller: Caller, execution_id: str, reason: str | None) -> dict[str, Any]:
        """Ask for an end: durable on return, applied by the execution's owner. Raises Conflict once it has ended."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await queries.get(connection, caller.org_id, execution_id)
            if row is None:
                raise NotFound("There is no such execution")
            if ExecutionStatus(row["status"]).terminal:
                raise Conflict(f"The execution has already ended as {row['status']}")
            await queries.send(
                connection,
                mail_id=clock.new_id("mail"),
                org_id=caller.org_id,
                execution_id=execution_id,
                kind="cancel",
                payload=encode({"reason": None if reason is None else clean_text(reason, 500)}),
                user_id=caller.user_id,
            )
            await self._audit.note(
                connection, caller, "execution.cancel_requested", "execution", execution_id, {"reason": reason}
            )
        return dict(row)


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


def _new_execution(caller: Caller, request: StartRequest, version: int) -> NewExecution:
    return NewExecution(
        id=clock.new_id("exec"),
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
    )


def _accepted_row(new: NewExecution, created_at: datetime, labels: dict[str, str]) -> Row:
    return AS_ACCEPTED | {
        "id": new.id,
        "org_id": new.org_id,
        "workflow_id": new.workflow_id,
        "workflow_version": new.workflow_version,
        "user_id": new.user_id,
        "input_data": new.input_text,
        "labels": labels,
        "retry_of": None,
        "created_at": created_at,
    }


def _under(pointer: str, problems: Sequence[Problem]) -> list[Problem]:
    return [Problem(problem.code, problem.detail, pointer + problem.pointer) for problem in problems]
