"""Understanding runs: why one is not moving, how two differ, where the time went, and which failures are the same."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from app import clock
from app.auth.principal import Caller
from app.db.queries import insight as queries
from app.db.queries.executions import Row
from app.db.queries.failures import FailureFilter, failure_groups, with_fingerprint
from app.db.tenancy import Tenancy
from app.domain.compiled import CompiledWorkflow
from app.domain.errors import NotFound
from app.domain.estimate import Estimate, StepNow, estimate
from app.domain.explain import Explanation, explain
from app.domain.jsontext import decode
from app.domain.states import AttemptStatus, ExecutionStatus, StepStatus
from app.domain.timeline import EVENT_TYPES, AttemptTimes, Moment, RunTimes, Span, StepTimes, edge_taken, timeline
from app.engine.definitions import Definitions
from app.services.comparison import DiffSummary, ResultKeys, RunDiff, differences, read_both, summarize
from app.services.executions import NO_SUCH_EXECUTION, ExecutionDetail
from app.services.payloads import all_shown, may_read
from app.services.run_facts import Limits, facts_of, read_situation


@dataclass(frozen=True, slots=True)
class Explained:
    """Where one execution is and why."""

    execution_id: str
    status: ExecutionStatus
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class Outlook:
    """How far a run is and when it probably ends; of a failed one, how it differs from the last success if any."""

    estimate: Estimate
    summary: DiffSummary | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The spans of one execution; `whole` unless it has more steps, attempts or waits than are shown."""

    row: Row
    spans: Sequence[Span]
    whole: bool


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A step of the definition with what became of it; `status` is PENDING if it has not been reached."""

    id: str
    name: str
    type: str
    step_number: int
    status: StepStatus
    duration_ms: float | None
    attempts: int


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """A need of a step; `taken` is None as long as that is not decided."""

    parent: str
    child: str
    port: str | None
    taken: bool | None


@dataclass(frozen=True, slots=True)
class RunGraph:
    """The graph of one execution, in topological order."""

    row: Row
    nodes: Sequence[GraphNode]
    edges: Sequence[GraphEdge]


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures that are the same, and the newest executions that failed so."""

    group: Row
    executions: Sequence[Row]


class Insight:
    """The use cases of understanding; all of them only read."""

    def __init__(self, tenancy: Tenancy, definitions: Definitions, limits: Limits, result_keys: ResultKeys) -> None:
        self._tenancy = tenancy
        self._definitions = definitions
        self._limits = limits
        self._result_keys = result_keys

    async def explain(self, caller: Caller, execution_id: str) -> Explained:
        """Why an execution is not moving, or that it is; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await self._row(connection, caller, execution_id)
            situation = await read_situation(connection, row, self._limits)
        workflow = await self._workflow_of(row)
        facts = facts_of(situation, workflow, self._limits)
        return Explained(execution_id, facts.status, explain(facts, row["now"]))

    async def diff(self, caller: Caller, left: str, right: str) -> RunDiff:
        """What is different in the right execution; raises NotFound if either is unknown."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            one, other = await self._row(connection, caller, left), await self._row(connection, caller, right)
            found = await read_both(connection, caller.org_id, one, other, self._result_keys)
        return await asyncio.to_thread(differences, found, payloads=may_read(caller))

    async def diff_with_last_success(self, caller: Caller, execution_id: str) -> RunDiff:
        """What is different from the last success before it; raises NotFound (`nothing_to_compare` if none)."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await self._row(connection, caller, execution_id)
            success = await queries.newest_success(connection, caller.org_id, row["workflow_id"], execution_id)
            if success is None:
                raise NotFound(
                    "No earlier execution of its workflow has completed; name one to compare with",
                    code="nothing_to_compare",
                )
            found = await read_both(connection, caller.org_id, success, row, self._result_keys)
        return await asyncio.to_thread(differences, found, payloads=may_read(caller))

    async def outlook(self, caller: Caller, detail: ExecutionDetail) -> Outlook:
        """What the record of an execution does not say of itself, by other executions of its workflow."""
        row, workflow = detail.row, detail.workflow
        status = ExecutionStatus(row["status"])
        summary, usual = None, dict[str, float]()
        if status is ExecutionStatus.COMPLETED:
            return Outlook(estimate(status, [], usual, clock.now()), None)
        async with self._tenancy.transaction(caller.org_id) as connection:
            if status is ExecutionStatus.FAILED:
                summary = await self._summary(connection, caller.org_id, row)
            if workflow is not None:
                usual = await queries.usual_times(connection, caller.org_id, row["workflow_id"], workflow.order)
        steps = [] if workflow is None else _steps_now(workflow, detail.steps)
        return Outlook(estimate(status, steps, usual, clock.now()), summary)

    async def _summary(self, connection: AsyncConnection, org_id: str, row: Row) -> DiffSummary | None:
        success = await queries.newest_success(connection, org_id, row["workflow_id"], row["id"])
        return None if success is None else await summarize(connection, org_id, success, row, self._result_keys)

    async def timeline(self, caller: Caller, execution_id: str) -> Timeline:
        """Where the time of an execution went; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await self._row(connection, caller, execution_id)
            steps = await queries.timed_steps(connection, caller.org_id, execution_id)
            attempts = await queries.timed_attempts(connection, caller.org_id, execution_id)
            events = await queries.events_of(connection, caller.org_id, execution_id, EVENT_TYPES)
        limits = queries.TIMED_STEPS, queries.TIMED_ATTEMPTS, queries.TIMED_EVENTS
        whole = all(len(rows) <= limit for rows, limit in zip((steps, attempts, events), limits, strict=True))
        parents = _parents(await self._workflow_of(row))
        shown = [_step_times(step, parents) for step in steps[: queries.TIMED_STEPS]]
        known = {step.step_id for step in shown}
        spans = timeline(
            RunTimes(row["created_at"], row["started_at"], row["completed_at"]),
            shown,
            [_attempt_times(attempt) for attempt in attempts if attempt["path"] in known],
            [_moment(event) for event in events],
        )
        return Timeline(row, spans, whole)

    async def graph(self, caller: Caller, execution_id: str) -> RunGraph:
        """The graph an execution runs, with what became of its steps and edges; raises NotFound.

        Without the step types it was made for, the shape comes from the record; before its start there is none then.
        """
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await self._row(connection, caller, execution_id)
            steps = await queries.timed_steps(connection, caller.org_id, execution_id)
        workflow = await self._workflow_of(row)
        shape: Any = decode(row["execution_graph"] if workflow is None else workflow.graph_text)
        return _graph(row, shape, {step["path"]: step for step in steps})

    async def failures(self, caller: Caller, wanted: FailureFilter, *, before: str | None, limit: int) -> Sequence[Row]:
        """Groups of equal failures, that with the newest execution first."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return await failure_groups(connection, caller.org_id, wanted, before=before, limit=limit)

    async def failure(self, caller: Caller, fingerprint: str) -> FailureGroup:
        """One group with its newest executions; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            groups = await failure_groups(
                connection, caller.org_id, FailureFilter(), before=None, limit=1, fingerprint=fingerprint
            )
            if not groups:
                raise NotFound("No execution has failed with this fingerprint")
            newest = await with_fingerprint(connection, caller.org_id, fingerprint)
        return FailureGroup(groups[0], all_shown(caller, newest))

    async def _row(self, connection: AsyncConnection, caller: Caller, execution_id: str) -> Row:
        row = await queries.state(connection, caller.org_id, execution_id)
        if row is None:
            raise NotFound(NO_SUCH_EXECUTION)
        return row

    async def _workflow_of(self, row: Row) -> CompiledWorkflow | None:
        return await self._definitions.of_record(row["org_id"], row["workflow_id"], row["workflow_version"])


def _parents(workflow: CompiledWorkflow | None) -> dict[str, tuple[str, ...]]:
    if workflow is None:
        return {}
    return {step.id: tuple(dict.fromkeys(edge.parent for edge in step.edges)) for step in workflow.steps}


def _step_times(row: Row, parents: dict[str, tuple[str, ...]]) -> StepTimes:
    return StepTimes(
        step_id=row["path"],
        status=StepStatus(row["status"]),
        attempt=row["attempt"],
        reason=row["reason"],
        attempt_started_at=row["attempt_started_at"],
        completed_at=row["completed_at"],
        parents=parents.get(row["path"], ()),
        ports=frozenset(row["ports"]),
        reused=row["reused_from"] is not None,
    )


def _attempt_times(row: Row) -> AttemptTimes:
    status = AttemptStatus(row["status"])
    return AttemptTimes(row["path"], row["attempt"], status, row["started_at"], row["completed_at"])


def _moment(row: Row) -> Moment:
    data: Any = decode(row["data"])
    return Moment(row["type"], row["step_id"], row["timestamp"], data.get("reason"))


def _graph(row: Row, shape: Any, rows: dict[str, Row]) -> RunGraph:
    times = {path: _step_times(step, {}) for path, step in rows.items()}
    nodes = [_node(node, rows.get(node["id"])) for node in shape.get("nodes", ())]
    edges = [
        GraphEdge(edge["from"], edge["to"], edge["port"], edge_taken(edge["port"], times.get(edge["from"])))
        for edge in shape.get("edges", ())
    ]
    return RunGraph(row, nodes, edges)


def _node(node: Any, row: Row | None) -> GraphNode:
    return GraphNode(
        id=node["id"],
        name=node["name"],
        type=node["type"],
        step_number=node["step_number"],
        status=StepStatus.PENDING if row is None else StepStatus(row["status"]),
        duration_ms=None if row is None else row["execution_time_ms"],
        attempts=0 if row is None else row["attempt"],
    )


def _steps_now(workflow: CompiledWorkflow, rows: Sequence[Row]) -> list[StepNow]:
    reached, parents = {row["path"]: row for row in rows}, _parents(workflow)

    def now(step_id: str) -> StepNow:
        row = reached.get(step_id)
        if row is None:
            return StepNow(step_id, needs=parents[step_id])
        return StepNow(
            step_id, StepStatus(row["status"]), row["reason"], row["started_at"], row["wake_at"], parents[step_id]
        )

    return [now(step.id) for step in workflow.steps]
