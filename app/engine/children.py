"""Executions that a step of another execution starts."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from app import clock
from app.domain.errors import Problems, StepError
from app.domain.events import timestamp_text
from app.domain.jsontext import JSON, encode
from app.engine.definitions import Definitions
from app.engine.ports import Claim, DefinitionSource, NewExecution, Recorder
from app.engine.transition import queued_event_data

MAX_DEPTH = 8
_TIME_PART = len("exec_") + 10


@dataclass(frozen=True, slots=True)
class ChildRequest:
    """Which workflow to run with which input; `waits` if the step goes on only once it has ended."""

    workflow_id: str
    input: JSON
    waits: bool


@dataclass(frozen=True, slots=True)
class Children:
    """Starts executions for steps. Asked again for the same round of the same step, it starts nothing new."""

    source: DefinitionSource
    definitions: Definitions
    recorder: Recorder
    nudge: Callable[[], None]

    async def start(self, parent: Claim, path: str, turn: str, request: ChildRequest) -> str:
        """The id of the execution, which is durable. `turn` tells the rounds and retries of a step apart.

        Raises StepError: `workflow_not_found`, `workflow_archived`, `workflow_invalid`, `input_schema_mismatch` or
        `nested_too_deep`; Unavailable if the database does not answer.
        """
        if parent.depth >= MAX_DEPTH:
            message = f"Executions start each other at most {MAX_DEPTH} levels deep"
            raise StepError(message, code="nested_too_deep", retryable=False)
        new = await self._new(parent, path, turn, request)
        await self.recorder.create(new)
        self.nudge()
        return new.id

    async def _new(self, parent: Claim, path: str, turn: str, request: ChildRequest) -> NewExecution:
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
        child_id = _child_id(parent.id, path, turn)
        execution: dict[str, JSON] = {
            "id": child_id,
            "workflow_id": request.workflow_id,
            "workflow_version": head.version,
            "org_id": parent.org_id,
            "user_id": parent.user_id,
            "created_at": timestamp_text(clock.now()),
        }
        slots = workflow.limits(request.input, execution)
        return NewExecution(
            id=child_id,
            org_id=parent.org_id,
            workflow_id=request.workflow_id,
            workflow_version=head.version,
            user_id=parent.user_id,
            input_text=encode(request.input),
            labels_text="{}",
            priority=0,
            ip_address=None,
            user_agent=None,
            request_id=None,
            queued_event_data=queued_event_data(request.workflow_id, head.version),
            audit_id=clock.new_id("audit"),
            parent_id=parent.id,
            parent_path=path if request.waits else None,
            depth=parent.depth + 1,
            queue_ttl=workflow.definition.queue_ttl,
            concurrency_key=slots.concurrency_key,
            concurrency_limit=slots.concurrency_limit,
            on_limit=slots.on_limit,
            rate_key=slots.rate_key,
            rate_limit=slots.rate_limit,
            rate_seconds=slots.rate_seconds,
        )


def _child_id(parent_id: str, path: str, turn: str) -> str:
    """Follows from where it was started, so that starting again is starting once; sorts with its parent."""
    digest = hashlib.sha256(f"{parent_id}\x00{path}\x00{turn}".encode()).digest()
    letters = "0123456789abcdefghjkmnpqrstvwxyz"
    return parent_id[:_TIME_PART] + "".join(letters[byte % 32] for byte in digest[:16])
