"""Starting executions: what a client asks for is checked as a whole, and accepted once."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeAlias

from app import clock, metrics
from app.auth.principal import Caller
from app.db.queries.executions import Row
from app.db.quotas import StartQuota
from app.db.workflow_source import WorkflowSource
from app.domain.compiled import NO_LIMITS, CompiledWorkflow, Slots
from app.domain.context import run_context
from app.domain.control import MAX_HOPS
from app.domain.errors import Conflict, NotFound, Problem, Problems, StepError, StepstreamError
from app.domain.jsontext import JSON, encode
from app.domain.states import ExecutionStatus
from app.engine.definitions import Definitions, invalid
from app.engine.ports import FRESH, Accepted, AlreadyAccepted, NewExecution, Origin, Recorder, WorkflowHead
from app.engine.transition import queued_event_data
from app.services.executions import Executions
from app.services.payloads import shown
from app.services.secrets import Secrets
from app.services.step_names import option_problems

FURTHEST_START = timedelta(days=366)

Accept: TypeAlias = Callable[[NewExecution], Awaitable[Accepted | AlreadyAccepted]]

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


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What a client asks for. `idempotency_key` makes repeating the request safe for 24 hours.

    `version` None: the one that new executions use. `queue_ttl` is in seconds. `control` holds `breakpoints`, `pins`,
    `only` and `budget`, each left out when there is none. `asked` is what a retry or a replay was asked to do: it
    belongs to the fingerprint, as what comes of it (`origin.carried`) does not. `id` is what the execution will have,
    for who must know before it can run.
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
    origin: Origin = FRESH
    asked: JSON = None
    id: str = field(default_factory=partial(clock.new_id, "exec"))

    def fingerprint(self) -> str:
        """Tells whether a repeated request is the same one."""
        parts: list[JSON] = [self.workflow_id, self.input, dict(sorted(self.labels.items())), self.priority]
        options: dict[str, JSON] = {
            "start_at": None if self.start_at is None else self.start_at.isoformat(),
            "queue_ttl": self.queue_ttl,
            "control": dict(self.control),
            "origin": None if self.origin is FRESH else [self.origin.source_id, self.origin.retry, self.asked],
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


class Starts:
    """The use cases of starting. `accept` gives an execution to the local engine."""

    def __init__(
        self,
        *,
        executions: Executions,
        workflows: WorkflowSource,
        definitions: Definitions,
        secrets: Secrets,
        recorder: Recorder,
        quota: StartQuota,
        accept: Accept,
    ) -> None:
        self._executions = executions
        self._workflows = workflows
        self._definitions = definitions
        self._secrets = secrets
        self._recorder = recorder
        self._quota = quota
        self._accept = accept

    async def start(self, caller: Caller, request: StartRequest) -> Started:
        """Accept an execution: durable on return.

        Raises NotFound for an unknown workflow, Conflict for an archived one, Problems for a workflow that cannot run
        (`workflow_invalid`), an input that does not fit (`input_schema_mismatch`), options that name unknown steps, or
        a key that stands for another request (`idempotency_key_reused`), Throttled when the organisation has used up
        its quota. What a key stands for is answered whatever has become of the workflow or the quota since.
        """
        try:
            new = await self._admitted(caller, request)
        except StepstreamError:
            key = request.idempotency_key
            if key is not None and (earlier := await self._recorder.kept(caller.org_id, key)) is not None:
                return await self._replay(caller, request, earlier)
            raise
        match await self._accept(new):
            case Accepted(created_at):
                metrics.executions_started.inc()
                row = _accepted_row(new, created_at, request.labels)
                # Who sent the input sees it again; that of a retry or a replay is another's.
                return Started(row if request.origin is FRESH else shown(caller, row), replayed=False)
            case AlreadyAccepted() as earlier:
                return await self._replay(caller, request, earlier)

    async def _admitted(self, caller: Caller, request: StartRequest) -> NewExecution:
        workflow, version = await self.startable(caller, request.workflow_id, request.version)
        missing = self._definitions.missing_setup(workflow)
        if missing := [*missing, *await self._secrets.problems(caller.org_id, workflow)]:
            raise invalid(missing)
        if problems := workflow.input_problems(request.input):
            detail = f"The input does not fit the workflow: {problems[0].detail}"
            raise Problems(detail, _under("/input", problems), code="input_schema_mismatch")
        if problems := [*option_problems(workflow, request.control), *_start_problems(request.start_at)]:
            raise Problems(f"{problems[0].pointer}: {problems[0].detail}", problems)
        new = _new_execution(caller, request, workflow, version)
        await self._quota.take(caller.org_id)
        return new

    async def startable(
        self, caller: Caller, workflow_id: str, version: int | None = None
    ) -> tuple[CompiledWorkflow, int]:
        """A version of a workflow that takes new executions, by default the one they use, and its number.

        Raises NotFound, Conflict for an archived workflow, Problems (`workflow_invalid`) for a version that cannot run,
        StepstreamError `loop_detected` for a request at the end of a long chain of runs.
        """
        if caller.hops > MAX_HOPS:
            detail = f"Runs that start each other by HTTP do so at most {MAX_HOPS} times; this looks like a loop"
            raise StepstreamError(detail, code="loop_detected")
        head = await self._head(caller, workflow_id)
        if head.archived:
            raise Conflict("The workflow is archived and starts no new executions")
        number = head.version if version is None else version
        return await self._definitions.get(caller.org_id, workflow_id, number), number

    async def version(self, caller: Caller, workflow_id: str, version: int | None) -> tuple[CompiledWorkflow, int]:
        """As `startable`, though the workflow may be archived: whether it is matters only to who starts something."""
        number = version or (await self._head(caller, workflow_id)).version
        return await self._definitions.get(caller.org_id, workflow_id, number), number

    async def _head(self, caller: Caller, workflow_id: str) -> WorkflowHead:
        head = await self._workflows.head(caller.org_id, workflow_id)
        if head is None:
            raise NotFound("There is no such workflow")
        return head

    async def _replay(self, caller: Caller, request: StartRequest, earlier: AlreadyAccepted) -> Started:
        if earlier.fingerprint != request.fingerprint():
            detail = "This Idempotency-Key was used for a request with another workflow, input or options"
            raise Problems(detail, [Problem("idempotency_key_reused", detail)], code="idempotency_key_reused")
        row = await self._executions.get(caller, earlier.execution_id)
        return Started({**row, **AS_ACCEPTED, "wake_at": request.start_at}, replayed=True)


def _new_execution(caller: Caller, request: StartRequest, workflow: CompiledWorkflow, version: int) -> NewExecution:
    queue_ttl = workflow.definition.queue_ttl if request.queue_ttl is None else request.queue_ttl
    return NewExecution(
        id=request.id,
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
        origin=request.origin,
        control_text=encode(dict(request.control) | ({"hops": caller.hops} if caller.hops else {})),
        start_at=request.start_at,
        queue_ttl=queue_ttl,
        slots=_slots(caller, request, workflow, version),
    )


def _slots(caller: Caller, request: StartRequest, workflow: CompiledWorkflow, version: int) -> Slots:
    """The limits the execution comes under; raises Problems if their keys cannot be computed from its input."""
    if workflow.definition.concurrency is None and workflow.definition.rate_limit is None:
        return NO_LIMITS
    context = run_context(
        execution_id=request.id,
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
        "retry_of": new.origin.retry_of,
        "forked_from": new.origin.forked_from,
        "parent_id": new.parent_id,
        "wake_at": new.start_at,
        "created_at": created_at,
    }


def _start_problems(start_at: datetime | None) -> list[Problem]:
    if start_at is None or start_at <= clock.now() + FURTHEST_START:
        return []
    return [Problem("invalid_value", "An execution starts within 366 days", "/start_at")]


def _under(pointer: str, problems: Sequence[Problem]) -> list[Problem]:
    return [Problem(problem.code, problem.detail, pointer + problem.pointer) for problem in problems]
