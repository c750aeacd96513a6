"""Gathering the facts that explain where a run is: in one transaction, with what its definition says of its steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.queries import insight as queries
from app.db.queries.executions import Row
from app.domain.compiled import CompiledWorkflow
from app.domain.jsontext import decode
from app.domain.run_facts import ApprovalFact, RateFact, Request, RunFacts, SlotLimit, StepFact
from app.domain.states import ExecutionStatus, StepStatus


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of this deployment, 0 for any number. `cancel_grace` is in seconds."""

    max_running_per_user: int
    max_running_per_org: int
    cancel_grace: float


@dataclass(frozen=True, slots=True)
class Situation:
    """What the database says of one execution now; `signals` are the names of those that have come to no use yet."""

    row: Row
    steps: Sequence[Row] = ()
    approvals: Sequence[Row] = ()
    mail: Sequence[Row] = ()
    signals: frozenset[str] = frozenset()
    cancel_asked_at: datetime | None = None
    limits: Sequence[SlotLimit] = ()
    rate: RateFact | None = None
    ahead: int | None = None


async def read_situation(connection: AsyncConnection, row: Row, limits: Limits) -> Situation:
    """Everything about an execution that has not ended; of one that has, its row says enough."""
    status, org_id, execution_id = ExecutionStatus(row["status"]), row["org_id"], row["id"]
    if status.terminal:
        return Situation(row)
    queued = row["ready"] and row["owner"] is None and status is not ExecutionStatus.RUNNING
    mail = await queries.unread_mail(connection, org_id, execution_id)
    if status is ExecutionStatus.CANCELLING:
        cancel_asked_at = await queries.cancelling_since(connection, org_id, execution_id)
    else:
        cancel_asked_at = next((one["created_at"] for one in mail if one["kind"] in {"cancel", "terminate"}), None)
    steps = await queries.open_steps(connection, org_id, execution_id)
    awaited = any(step["reason"] == "signal" for step in steps)
    return Situation(
        row=row,
        steps=steps,
        signals=await queries.unused_signals(connection, org_id, execution_id) if awaited else frozenset(),
        approvals=await queries.undecided(connection, org_id, execution_id),
        mail=mail,
        cancel_asked_at=cancel_asked_at,
        limits=await _slots(connection, row, limits) if queued else (),
        rate=await _rate(connection, row) if queued and row["rate_key"] is not None else None,
        ahead=await queries.ahead_of(connection, row) if queued else None,
    )


async def _slots(connection: AsyncConnection, row: Row, limits: Limits) -> list[SlotLimit]:
    """The narrowest limit first."""
    found: list[SlotLimit] = []
    if row["concurrency_key"] is not None and row["concurrency_limit"] is not None:
        held, holders = await queries.key_slots(connection, row["org_id"], row["concurrency_key"])
        found.append(SlotLimit("concurrency", row["concurrency_limit"], held, tuple(holders)))
    if limits.max_running_per_user:
        held, holders = await queries.user_slots(connection, row["org_id"], row["user_id"])
        found.append(SlotLimit("user", limits.max_running_per_user, held, tuple(holders)))
    if limits.max_running_per_org:
        held, holders = await queries.org_slots(connection, row["org_id"])
        found.append(SlotLimit("organization", limits.max_running_per_org, held, tuple(holders)))
    return found


async def _rate(connection: AsyncConnection, row: Row) -> RateFact:
    begun = await queries.begun_within(connection, row)
    seconds, limit = row["rate_seconds"], row["rate_limit"]
    full = len(begun) >= limit
    return RateFact(limit, seconds, len(begun), begun[-1] + timedelta(seconds=seconds) if full else None)


def facts_of(situation: Situation, workflow: CompiledWorkflow | None, limits: Limits) -> RunFacts:
    """The facts in the words of the domain."""
    row = situation.row
    pause = _object(decode(row["control"])).get("pause")
    paused: Mapping[str, Any] = pause if isinstance(pause, dict) else {}
    return RunFacts(
        status=ExecutionStatus(row["status"]),
        status_reason=row["status_reason"],
        status_message=row["status_message"],
        error_code=row["error_code"],
        error=row["error"],
        owned=row["owner"] is not None,
        ready=row["ready"],
        wake_at=row["wake_at"],
        expires_at=row["expires_at"],
        last_recorded_at=row["last_recorded_at"],
        cancel_requested_at=situation.cancel_asked_at,
        cancel_grace=limits.cancel_grace,
        pause_at=paused.get("at"),
        pause_reason=paused.get("reason"),
        pause_detail=paused.get("detail"),
        pause_lifted=bool(paused.get("lifted")),
        steps=[_step(step, workflow, situation.signals) for step in situation.steps],
        approvals=[
            ApprovalFact(one["id"], one["title"], one["path"], one["deadline_at"], one["quorum"], one["approved"])
            for one in situation.approvals
        ],
        requests=[Request(one["kind"], one["created_at"]) for one in situation.mail],
        limits=situation.limits,
        rate=situation.rate,
        ahead=situation.ahead,
    )


def _step(row: Row, workflow: CompiledWorkflow | None, signals: frozenset[str]) -> StepFact:
    awaits = _object(decode(row["awaits"]) if row["awaits"] is not None else None)
    compiled = None if workflow is None else workflow.by_id.get(row["path"].partition("[")[0])
    return StepFact(
        step_id=row["path"],
        status=StepStatus(row["status"]),
        attempt=row["attempt"],
        reason=row["reason"],
        wake_at=row["wake_at"],
        since=row["attempt_started_at"],
        error=row["error"],
        error_code=row["error_code"],
        timeout=None if compiled is None else compiled.timeout,
        topics=tuple(str(topic) for topic in awaits.get("topics", ()) if topic not in signals),
        mode=str(awaits.get("mode", "any")),
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
