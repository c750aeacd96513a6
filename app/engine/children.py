"""Executions that a step of another execution starts."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from app import clock
from app.crashpoints import crashpoint
from app.domain.carry import Redo, carried, done_anew
from app.domain.compiled import CompiledWorkflow
from app.domain.context import run_context
from app.domain.control import Control, control_from, control_json
from app.domain.errors import Problems, StepError
from app.domain.jsontext import JSON, decode, encode
from app.domain.states import ExecutionStatus
from app.engine.definitions import Definitions
from app.engine.ports import FRESH, Claim, DefinitionSource, EarlierRuns, NewExecution, Origin
from app.engine.transition import queued_event_data

MAX_DEPTH = 8
_TIME_PART = len("exec_") + 10


@dataclass(frozen=True, slots=True)
class ChildRequest:
    """Which workflow to run with which input; `waits` if the step goes on only once it has ended."""

    workflow_id: str
    input: JSON
    waits: bool


class Turn(NamedTuple):
    """Which attempt at which round of which step or item starts the execution; `again` as in `Control`."""

    path: str
    iteration: int
    failures: int
    again: int

    @property
    def text(self) -> str:
        return f"{self.iteration}.{self.failures}"


@dataclass(frozen=True, slots=True)
class Children:
    """Starts executions for steps. Asked again for the same round of the same step, it starts nothing new.

    What a step started in an earlier run of the same root, or in an attempt before, is not paid for twice: if that had
    failed the new execution repairs it, and otherwise takes over what must happen once and did.
    """

    source: DefinitionSource
    earlier: EarlierRuns
    definitions: Definitions
    accept: Callable[[NewExecution], Awaitable[object]]

    async def start(self, parent: Claim, turn: Turn, request: ChildRequest) -> str:
        """The id of the execution, which is durable.

        Raises StepError: `workflow_not_found`, `workflow_archived`, `workflow_invalid`, `input_schema_mismatch` or
        `nested_too_deep`; Unavailable if the database does not answer.
        """
        if parent.depth >= MAX_DEPTH:
            message = f"Executions start each other at most {MAX_DEPTH} levels deep"
            raise StepError(message, code="nested_too_deep", retryable=False)
        new = await self._new(parent, turn, request)
        await self.accept(new)
        crashpoint("in_child_start")
        return new.id

    async def _new(self, parent: Claim, turn: Turn, request: ChildRequest) -> NewExecution:
        head = await self.source.head(parent.org_id, request.workflow_id)
        if head is None:
            message = f"There is no workflow '{request.workflow_id}'"
            raise StepError(message, code="workflow_not_found", retryable=False)
        if head.archived:
            message = f"Workflow '{request.workflow_id}' is archived and starts no new executions"
            raise StepError(message, code="workflow_archived", retryable=False)
        try:
            workflow = await self.definitions.get(parent.org_id, request.workflow_id, head.version)
        except Problems as error:
            raise StepError(error.detail, code="workflow_invalid", retryable=False) from None
        if problems := workflow.input_problems(request.input):
            message = f"The input does not fit workflow '{request.workflow_id}': {problems[0].detail}"
            raise StepError(message, code="input_schema_mismatch", retryable=False)
        child_id = _child_id(parent.id, turn)
        origin, control = await self._origin(parent, turn, request, workflow)
        execution = run_context(
            execution_id=child_id,
            workflow_id=request.workflow_id,
            workflow_version=head.version,
            org_id=parent.org_id,
            user_id=parent.user_id,
            created_at=clock.now(),
        )
        return NewExecution(
            id=child_id,
            org_id=parent.org_id,
            workflow_id=request.workflow_id,
            workflow_version=head.version,
            user_id=parent.user_id,
            input_text=encode(request.input),
            labels_text="{}",
            priority=parent.priority,
            ip_address=None,
            user_agent=None,
            request_id=None,
            queued_event_data=queued_event_data(request.workflow_id, head.version),
            audit_id=clock.new_id("audit"),
            parent_id=parent.id,
            origin=origin,
            control_text=encode(control_json(control)),
            parent_path=turn.path if request.waits else None,
            depth=parent.depth + 1,
            queue_ttl=workflow.definition.queue_ttl,
            slots=workflow.limits(request.input, execution),
        )

    async def _origin(
        self, parent: Claim, turn: Turn, request: ChildRequest, workflow: CompiledWorkflow
    ) -> tuple[Origin, Control]:
        """What it repairs or runs again; FRESH for a first start, the rounds of a `repeat`, and what is done anew."""
        hops = control_from(decode(parent.control_text)).hops
        first = parent.root_id == parent.id and turn.failures == 0
        if first or turn.iteration > 0 or turn.again > 0 or not request.waits:
            return FRESH, Control(hops=hops)
        run = await self.earlier.child(parent.org_id, parent.root_id, turn.path, request.workflow_id)
        if run is None:
            return FRESH, Control(hops=hops)
        retry = run.status != ExecutionStatus.COMPLETED and run.input_text == encode(request.input)
        redo = Redo(from_start=not retry)
        taken = carried(workflow, run.steps, redo)
        control = control_from(decode(run.control_text))
        again = control.again | {
            name: control.again.get(name, 0) + 1 for name in done_anew(workflow, run.steps, redo, taken)
        }
        return Origin(run.id, run.root_id, retry, taken), Control(again=again, hops=hops)


def _child_id(parent_id: str, turn: Turn) -> str:
    """Follows from where it was started, so that starting again is starting once; sorts with its parent."""
    digest = hashlib.sha256(f"{parent_id}\x00{turn.path}\x00{turn.text}".encode()).digest()
    letters = "0123456789abcdefghjkmnpqrstvwxyz"
    return parent_id[:_TIME_PART] + "".join(letters[byte % 32] for byte in digest[:16])
