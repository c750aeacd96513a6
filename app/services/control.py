"""What people ask of an execution while it is under way.

Every wish is mail: durable in the execution's inbox on return, with an audit row in the same transaction, and applied
by whoever owns the execution. The checks here are for the asker's sake; what the wish does is decided when it is
applied, and mail to an execution that has ended meanwhile does nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from app import clock
from app.auth.principal import Caller
from app.crashpoints import crashpoint
from app.db.queries import control as inbox
from app.db.queries import executions as queries
from app.db.queries.control import Letter
from app.db.queries.executions import Row
from app.db.tenancy import Tenancy
from app.domain.carry import is_approval, split_item
from app.domain.compiled import CompiledWorkflow
from app.domain.definition import Budget
from app.domain.errors import Conflict, NotFound, Problem, Problems
from app.domain.jsontext import JSON, encode
from app.domain.mail import MailKind, clean_reason
from app.domain.states import ExecutionStatus, StepStatus
from app.engine.definitions import Definitions
from app.services.audit import Audit
from app.services.executions import find_execution
from app.services.payloads import shown
from app.services.step_names import unknown_steps

MAX_SIGNALS, MAX_SIGNAL_BYTES = 1_000, 8 << 20
"""Signals that one execution keeps until a step uses them."""

MAX_PINNED = 4 << 20
"""Characters: an owner reads them at each claim."""

WISHES = frozenset({MailKind.CANCEL, MailKind.TERMINATE, MailKind.PAUSE, MailKind.RESUME, MailKind.STEP})
"""What is asked for by a reason alone."""


@dataclass(frozen=True, slots=True)
class SentSignal:
    """A signal as stored; `duplicate`: an earlier one had the same dedupe key, and `id` is that one's."""

    id: str
    execution_id: str
    name: str
    duplicate: bool


class Control:
    """The use cases about running executions. All raise NotFound, and Conflict for an execution that has ended."""

    def __init__(self, tenancy: Tenancy, definitions: Definitions, audit: Audit) -> None:
        self._tenancy = tenancy
        self._definitions = definitions
        self._audit = audit

    async def ask(self, caller: Caller, execution_id: str, wish: MailKind, reason: str | None) -> Row:
        """Cancel, terminate, pause, resume or step. Asking again is fine; only `step` needs a paused execution."""
        if wish not in WISHES:
            raise ValueError(f"{wish} needs more than a reason")
        said = clean_reason(reason)
        payload: dict[str, JSON] = {} if wish is MailKind.STEP else {"reason": said}
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await _running(connection, caller, execution_id)
            if wish is MailKind.STEP and row["status"] != ExecutionStatus.PAUSED:
                raise Conflict(f"Only a PAUSED execution goes on step by step, and this one is {row['status']}")
            await self._send(connection, caller, execution_id, wish, payload, {"reason": said})
        crashpoint("after_inbox")
        return shown(caller, row)

    async def signal(
        self, caller: Caller, execution_id: str, name: str, payload: JSON, dedupe_key: str | None
    ) -> SentSignal:
        """Leave a signal for a step that waits for it now or later. A dedupe key counts once for each name.

        Raises Conflict (`too_many_signals`) while too many wait to be used.
        """
        key = None if dedupe_key is None else f"{name}:{dedupe_key}"
        letter = Letter(
            id=clock.new_id("mail"),
            execution_id=execution_id,
            kind=MailKind.SIGNAL,
            payload=encode(payload),
            user_id=caller.user_id,
            topic=name,
            dedupe_key=key,
        )
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await find_execution(connection, caller.org_id, execution_id)
            if earlier := await self._earlier_signal(connection, caller, execution_id, key):
                return SentSignal(earlier, execution_id, name, duplicate=True)
            _demand_running(row)
            await _demand_room(connection, caller, execution_id, letter)
            if await inbox.send(connection, caller.org_id, letter) is None:
                # Somebody else's insert of the same key was decided while ours waited for it.
                earlier = await self._earlier_signal(connection, caller, execution_id, key)
                return SentSignal(earlier or letter.id, execution_id, name, duplicate=True)
            details: dict[str, JSON] = {"name": name, "signal_id": letter.id}
            await self._audit.note(connection, caller, "execution.signal_sent", "execution", execution_id, details)
        return SentSignal(letter.id, execution_id, name, duplicate=False)

    async def set_breakpoints(self, caller: Caller, execution_id: str, steps: Sequence[str]) -> Row:
        """Replace the steps before which the execution pauses. Raises Problems for steps it does not have."""
        workflow = await self._workflow(caller, execution_id)
        if problems := unknown_steps(workflow, "/steps", steps):
            raise Problems(f"{problems[0].pointer}: {problems[0].detail}", problems)
        wanted: list[JSON] = [*dict.fromkeys(steps)]
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await _running(connection, caller, execution_id)
            await self._send(connection, caller, execution_id, MailKind.BREAKPOINTS, {"steps": wanted})
        return shown(caller, row)

    async def edit_output(
        self, caller: Caller, execution_id: str, step_id: str, output: JSON, reason: str | None
    ) -> Row:
        """Give a completed step of a paused execution another output, or pin that of a step not started yet.

        Raises Conflict once something downstream has started or was skipped, having looked at the output as it was, and
        for a step that is under way or ended otherwise.
        """
        workflow = await self._workflow(caller, execution_id)
        if step_id not in workflow.by_id:
            raise NotFound("There is no such step")
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await _running(connection, caller, execution_id)
            outcomes = await queries.outcomes_of(connection, caller.org_id, execution_id)
            if refusal := _why_not_edited(workflow, row, outcomes, step_id):
                raise Conflict(refusal)
            if len(row["control"]) + len(encode(output)) > MAX_PINNED:
                raise Conflict(f"The outputs that were pinned are larger than {MAX_PINNED >> 20} MiB together")
            payload: dict[str, JSON] = {"step_id": step_id, "output": output}
            said = clean_reason(reason)
            details: dict[str, JSON] = {"step_id": step_id, "reason": said}
            await self._send(connection, caller, execution_id, MailKind.EDIT, payload, details)
        return shown(caller, row)

    async def set_budget(self, caller: Caller, execution_id: str, budget: Budget, reason: str | None) -> Row:
        """Set limits of what the execution may use; those not given stay. Going on after a pause is asked for apart."""
        limits: dict[str, JSON] = budget.model_dump(exclude_none=True)
        if not limits:
            detail = "Give at least one limit: max_cost, max_tokens, max_steps or max_duration"
            raise Problems(detail, [Problem("missing_field", detail)])
        said = clean_reason(reason)
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await _running(connection, caller, execution_id)
            await self._send(connection, caller, execution_id, MailKind.BUDGET, limits, {**limits, "reason": said})
        return shown(caller, row)

    async def _workflow(self, caller: Caller, execution_id: str) -> CompiledWorkflow:
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await _running(connection, caller, execution_id)
        return await self._definitions.get(caller.org_id, row["workflow_id"], row["workflow_version"])

    async def _earlier_signal(
        self, connection: AsyncConnection, caller: Caller, execution_id: str, key: str | None
    ) -> str | None:
        if key is None:
            return None
        return await inbox.duplicate(connection, caller.org_id, execution_id, MailKind.SIGNAL, key)

    async def _send(
        self,
        connection: AsyncConnection,
        caller: Caller,
        execution_id: str,
        kind: MailKind,
        payload: dict[str, JSON],
        details: dict[str, JSON] | None = None,
    ) -> None:
        """Mail and its audit row; what the audit row tells is the payload unless `details` are given."""
        letter = Letter(clock.new_id("mail"), execution_id, kind, encode(payload), caller.user_id)
        await inbox.send(connection, caller.org_id, letter)
        told = payload if details is None else details
        await self._audit.note(connection, caller, f"execution.{kind}_requested", "execution", execution_id, told)


async def _running(connection: AsyncConnection, caller: Caller, execution_id: str) -> Row:
    row = await find_execution(connection, caller.org_id, execution_id)
    _demand_running(row)
    return row


async def _demand_room(connection: AsyncConnection, caller: Caller, execution_id: str, letter: Letter) -> None:
    """Whoever takes the execution up has all signals in memory that no step has used."""
    count, size = await inbox.kept_signals(connection, caller.org_id, execution_id)
    if count >= MAX_SIGNALS or size + len(letter.payload) > MAX_SIGNAL_BYTES:
        detail = (
            f"{count} signals wait to be used by the execution, and {MAX_SIGNALS} or {MAX_SIGNAL_BYTES >> 20} MiB are "
            "the most: none is taken until a step has used some"
        )
        raise Conflict(detail, code="too_many_signals")


def _demand_running(row: Row) -> None:
    if ExecutionStatus(row["status"]).terminal:
        raise Conflict(f"The execution has already ended as {row['status']}")


def _why_not_edited(workflow: CompiledWorkflow, row: Row, outcomes: Sequence[Row], step_id: str) -> str | None:
    """Why the output of a step cannot be set now; None: it can."""
    if is_approval(workflow.by_id[step_id]):
        return "People decide on an approval: its output cannot be set"
    steps: dict[str, Any] = {outcome["path"]: outcome for outcome in outcomes}
    step = steps.get(step_id)
    if step is None or (step["status"] == StepStatus.PENDING and step["started_at"] is None):
        return None
    if step["status"] != StepStatus.COMPLETED:
        return f"The step is {step['status']}: only a completed step, or one that has not started, can be edited"
    if row["status"] != ExecutionStatus.PAUSED:
        return f"A completed step is edited while the execution is PAUSED, and it is {row['status']}: pause it first"
    decided = sorted(
        split_item(path)[0]
        for path, outcome in steps.items()
        if outcome["status"] != StepStatus.PENDING and _is_downstream(workflow, step_id, split_item(path)[0])
    )
    if decided:
        return f"Step '{decided[0]}' downstream went by the output as it was: replay the execution instead"
    return None


def _is_downstream(workflow: CompiledWorkflow, step_id: str, other: str) -> bool:
    step = workflow.by_id.get(other)
    return step is not None and step_id in step.upstream
