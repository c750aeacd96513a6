"""Executions made from earlier ones: repaired, replayed, or one step of a workflow run alone.

Nothing of the earlier execution changes. What it finished is taken over by the new one as rows, by the rules of
`app.domain.carry`; both share a root, by which their kin are found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from app.auth.principal import Caller
from app.crashpoints import crashpoint
from app.db.queries import executions as queries
from app.db.queries.executions import Row
from app.db.tenancy import Tenancy
from app.domain.carry import EarlierStep, Redo, carried, done_anew, is_approval, split_item
from app.domain.compiled import CompiledWorkflow
from app.domain.errors import Conflict, Forbidden, NotFound, Problem, Problems
from app.domain.jsontext import JSON, decode
from app.domain.mail import clean_reason
from app.domain.states import ExecutionStatus
from app.engine.ports import Origin
from app.services.audit import Audit
from app.services.executions import find_execution
from app.services.starts import Started, StartRequest, Starts
from app.services.step_names import unknown_outputs

MAX_KIN = 200

Which: TypeAlias = Literal["same", "latest"]
"""The version of the workflow to run: that of the earlier execution, or the one new executions use."""


@dataclass(frozen=True, slots=True)
class RetryRequest:
    """What to do again: from a step or one item (`map[3]`) on, or None: whatever did not end well."""

    from_step: str | None = None
    version: Which = "same"
    redo_once: bool = False
    reason: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What to run again: from a step or one item on, or None: from the start.

    `edits_input` says that `input` replaces the earlier one. `pins` None keeps those of the earlier execution.
    """

    from_step: str | None = None
    input: JSON = None
    edits_input: bool = False
    version: Which = "same"
    pins: Mapping[str, JSON] | None = None
    breakpoints: Sequence[str] = ()
    redo_once: bool = False
    reason: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Lineage:
    """The executions of one root and those they started, the oldest first."""

    root_id: str
    rows: Sequence[Row]


class Lineages:
    """The use cases about executions made from others."""

    def __init__(self, tenancy: Tenancy, starts: Starts, audit: Audit) -> None:
        self._tenancy = tenancy
        self._starts = starts
        self._audit = audit

    async def retry(self, caller: Caller, execution_id: str, request: RetryRequest) -> Started:
        """Repair an execution by a new one with the same input; what it had finished is not done again.

        Raises NotFound, Conflict unless it ended badly (or ended, and `from_step` is given), Problems for a step that
        the version does not have, and whatever `Starts.start` does.
        """
        row, outcomes = await self._earlier(caller, execution_id)
        if row["status"] == ExecutionStatus.COMPLETED and request.from_step is None:
            raise Conflict("The execution has completed: name the step to retry from, or replay it")
        redo = Redo(from_step=request.from_step, once=request.redo_once)
        control = _kept_control(row, ("only", "pins", "budget"))
        asked: JSON = {"version": request.version, **asdict(redo)}
        return await self._start(caller, row, outcomes, redo, asked, control, decode(row["input_data"]), request)

    async def replay(self, caller: Caller, execution_id: str, request: ReplayRequest) -> Started:
        """Run an execution again as a new one, from a step on or from the start.

        With another input, only the steps done again see it: what is taken over keeps the output it had. Approvals are
        not taken over then, nor with other pins: nobody has approved that. Raises NotFound, Conflict unless it has
        ended, and what `retry` does.
        """
        row, outcomes = await self._earlier(caller, execution_id)
        from_start = request.from_step is None
        earlier = decode(row["input_data"])
        value = request.input if request.edits_input else earlier
        changed = value != earlier or request.pins is not None
        redo = Redo(from_step=request.from_step, from_start=from_start, once=request.redo_once, approvals=changed)
        control = _kept_control(row, ("only", "pins", "budget") if from_start else ("pins", "budget"))
        if request.pins is not None:
            control["pins"] = dict(request.pins)
        if request.breakpoints:
            control["breakpoints"] = [*request.breakpoints]
        asked: JSON = {"version": request.version, **asdict(redo)}
        return await self._start(caller, row, outcomes, redo, asked, control, value, request)

    async def run_step(
        self, caller: Caller, workflow_id: str, step_id: str, value: JSON, outputs: Mapping[str, JSON], key: str | None
    ) -> Started:
        """Run one step of a workflow alone; `outputs` stand for those of the steps before it.

        Raises NotFound for an unknown workflow or step, and what `Starts.start` does.
        """
        workflow, version = await self._starts.startable(caller, workflow_id)
        if step_id not in workflow.by_id:
            raise NotFound("There is no such step")
        if asked := [name for name in workflow.by_id[step_id].upstream if is_approval(workflow.by_id[name])]:
            detail = (
                f"Step '{step_id}' stands behind the approval '{asked[0]}': start the workflow, and have it approved"
            )
            raise Forbidden(detail, code="approval_required")
        if problems := unknown_outputs(workflow, "/outputs", outputs):
            raise Problems(f"{problems[0].pointer}: {problems[0].detail}", problems)
        control: dict[str, JSON] = {"only": step_id} | ({"pins": dict(outputs)} if outputs else {})
        wanted = StartRequest(workflow_id, value, idempotency_key=key, control=control, version=version)
        return await self._starts.start(caller, wanted)

    async def lineage(self, caller: Caller, execution_id: str) -> Lineage:
        """The kin of an execution, at most 200; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await find_execution(connection, caller.org_id, execution_id)
            return Lineage(row["root_id"], await queries.family(connection, caller.org_id, row["root_id"], MAX_KIN))

    async def _earlier(self, caller: Caller, execution_id: str) -> tuple[Row, Sequence[Row]]:
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await find_execution(connection, caller.org_id, execution_id)
            if not ExecutionStatus(row["status"]).terminal:
                raise Conflict(f"The execution is {row['status']}: this needs one that has ended")
            return row, await queries.outcomes_of(connection, caller.org_id, execution_id)

    async def _start(
        self,
        caller: Caller,
        row: Row,
        outcomes: Sequence[Row],
        redo: Redo,
        asked: JSON,
        control: dict[str, JSON],
        value: JSON,
        request: RetryRequest | ReplayRequest,
    ) -> Started:
        version = row["workflow_version"] if request.version == "same" else None
        workflow, number = await self._starts.version(caller, row["workflow_id"], version)
        if redo.from_step is not None and (problem := _step_problem(workflow, outcomes, redo.from_step)):
            raise Problems(problem.detail, [problem])
        retry = isinstance(request, RetryRequest)
        inherited = isinstance(request, RetryRequest) or request.pins is None
        earlier = [EarlierStep(step["path"], step["type"], step["status"], step["reason"]) for step in outcomes]
        taken = carried(workflow, earlier, redo)
        control = _counting(control, row, done_anew(workflow, earlier, redo, taken))
        wanted = StartRequest(
            workflow_id=row["workflow_id"],
            input=value,
            labels=dict(row["labels"]),
            priority=row["priority"],
            idempotency_key=request.idempotency_key,
            control=_of_version(control, workflow) if inherited else control,
            version=number,
            origin=Origin(row["id"], row["root_id"], retry, taken),
            asked=asked,
        )
        started = await self._starts.start(caller, wanted)
        crashpoint("in_retry")
        if request.reason is not None:  # if it is a repetition, the first request may not have come to this
            await self._note(caller, row["id"], started.row["id"], request.reason, retry=retry)
        return started

    async def _note(self, caller: Caller, source_id: str, new_id: str, reason: str, *, retry: bool) -> None:
        """Why: the record of the new execution has no place for it."""
        action = "execution.retry_requested" if retry else "execution.replay_requested"
        details: dict[str, JSON] = {"execution_id": new_id, "reason": clean_reason(reason)}
        async with self._tenancy.transaction(caller.org_id) as connection:
            await self._audit.note_once(connection, caller, new_id, action, "execution", source_id, details)


def _counting(control: dict[str, JSON], row: Row, anew: Sequence[str]) -> dict[str, JSON]:
    """With how often steps were done again on purpose, in this and in earlier runs."""
    again: Any = _kept_control(row, ("again",)).get("again", {})
    counted: dict[str, JSON] = again | {name: again.get(name, 0) + 1 for name in anew}
    return control | {"again": counted} if counted else control


def _kept_control(row: Row, names: Sequence[str]) -> dict[str, JSON]:
    """What was asked of the earlier execution at its start, without what happened to it since."""
    control: Any = decode(row["control"])
    return {name: control[name] for name in names if control.get(name)}


def _of_version(control: dict[str, JSON], workflow: CompiledWorkflow) -> dict[str, JSON]:
    """Without pins of steps that the version does not have any more."""
    pins = control.get("pins")
    if not isinstance(pins, dict):
        return control
    return control | {"pins": {name: output for name, output in pins.items() if name in workflow.by_id}}


def _step_problem(workflow: CompiledWorkflow, outcomes: Sequence[Row], path: str) -> Problem | None:
    name, index = split_item(path)
    if name not in workflow.by_id:
        detail = "The workflow has no such step in the version that is run"
        return Problem("unknown_step", detail, "/from_step")
    if index is None:
        return None
    items = next((step["items"] for step in outcomes if step["path"] == name), None)
    if workflow.by_id[name].definition.for_each is None or items is None or index >= items:
        return Problem("unknown_step", "The step had no such item", "/from_step")
    return None
