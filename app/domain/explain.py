"""Why an execution is not moving, or that it is: a pure function from facts to one code, one sentence and a blocker.

Every execution that has not ended gets one of the codes below; what is first in this table wins.

===================== ==================================================================================
`ended`               it is over; the sentence says how
`cancelling`          somebody asked for its end; running steps may finish until `moves_at`
`resuming`            it is PAUSED, and somebody asked it to go on
`budget_exceeded`     PAUSED: a budget is used up
`breakpoint`          PAUSED before a step with a breakpoint
`stepping`            PAUSED after a single step
`paused`              PAUSED by a person
`delayed_start`       its `start_at` has not come
`rate_limit`          the rate limit of its workflow lets it begin at `moves_at`
`concurrency_limit`   as many runs with its concurrency key are running as may
`user_limit`          as many runs of its user are running as may
`organization_limit`  as many runs of its organisation are running as may
`queued`              it waits for its turn; `details.ahead` says how many are before it
`waking`              what it waited for has come, and a worker is about to take it up
`recovering`          it has lost its worker; another takes it up
`pausing`             it is to pause, as somebody asked or a limit says; running steps end first
`overdue_step`        a step runs longer than its timeout: its worker may be gone
`running`             a step is running: it is moving
`retry_backoff`       a step failed and is tried again at `moves_at`
`delay`               a step waits for a time
`repeat_interval`     a step runs again at `moves_at`
`approval`            it waits for people to approve
`signal`              it waits for a signal
`child`               it waits for another execution
`deciding`            its worker is between two steps: it is moving
===================== ==================================================================================
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, TypeAlias

from app.domain.durations import format_duration
from app.domain.events import timestamp_text
from app.domain.jsontext import JSON
from app.domain.run_facts import ApprovalFact, LimitKind, RunFacts, SlotLimit, StepFact
from app.domain.states import ExecutionStatus, StepStatus

OVERDUE_AFTER = timedelta(seconds=60)
"""A worker stops a step at its timeout; one still shown as running this much later has lost its worker."""
SHOWN = 20
"""Steps, holders and approvals listed in `details` at most."""


class ExplainCode(StrEnum):
    """Why an execution is where it is; part of the API contract. The table of the module says what each means."""

    ENDED = "ended"
    CANCELLING = "cancelling"
    RESUMING = "resuming"
    BUDGET_EXCEEDED = "budget_exceeded"
    BREAKPOINT = "breakpoint"
    STEPPING = "stepping"
    PAUSED = "paused"
    DELAYED_START = "delayed_start"
    RATE_LIMIT = "rate_limit"
    CONCURRENCY_LIMIT = "concurrency_limit"
    USER_LIMIT = "user_limit"
    ORGANIZATION_LIMIT = "organization_limit"
    QUEUED = "queued"
    WAKING = "waking"
    RECOVERING = "recovering"
    PAUSING = "pausing"
    OVERDUE_STEP = "overdue_step"
    RUNNING = "running"
    RETRY_BACKOFF = "retry_backoff"
    DELAY = "delay"
    REPEAT_INTERVAL = "repeat_interval"
    APPROVAL = "approval"
    SIGNAL = "signal"
    CHILD = "child"
    DECIDING = "deciding"


Details: TypeAlias = "dict[str, JSON | datetime]"
BlockerType: TypeAlias = Literal["step", "execution", "approval", "signal"]


@dataclass(frozen=True, slots=True)
class Blocker:
    """The thing that must move first; for a signal the id is its name."""

    type: BlockerType
    id: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """`moves_at` is the time at which it moves by itself at the latest, None if that is not known."""

    code: ExplainCode
    message: str
    blocker: Blocker | None = None
    moves_at: datetime | None = None
    details: Details = field(default_factory=dict)


def explain(facts: RunFacts, now: datetime) -> Explanation:
    """Why the run is not moving, or that it is."""
    for reason in _REASONS:
        if (found := reason(facts, now)) is not None:
            return found
    if not facts.owned:
        return Explanation(ExplainCode.WAKING, "A worker is about to take it up", details=_recorded(facts))
    return Explanation(ExplainCode.DECIDING, "Its worker is deciding what comes next", details=_recorded(facts))


def _ended(facts: RunFacts, _now: datetime) -> Explanation | None:
    match facts.status:
        case ExecutionStatus.COMPLETED:
            message = "It has completed"
        case ExecutionStatus.FAILED:
            message = f"It has failed: {facts.error or 'no message'}"
        case ExecutionStatus.CANCELLED:
            message = f"It was cancelled: {facts.error or facts.status_message or 'no reason was given'}"
        case _:
            return None
    details: Details = {"outcome": facts.status.value, "error_code": facts.error_code}
    return Explanation(ExplainCode.ENDED, message, details=details)


def _cancelling(facts: RunFacts, _now: datetime) -> Explanation | None:
    if facts.status is not ExecutionStatus.CANCELLING and not facts.asked("cancel", "terminate"):
        return None
    since = facts.cancel_requested_at
    until = None if since is None else since + timedelta(seconds=facts.cancel_grace)
    running = _running(facts)
    if running:
        names = _listed(step.step_id for step in running)
        message = f"Its end was asked for; {names} may still finish, and is then stopped by force"
    else:
        message = "Its end was asked for and comes next"
    details = _step_details(running) | {"requested_at": since, "grace_seconds": facts.cancel_grace}
    return Explanation(ExplainCode.CANCELLING, message, _step_blocker(running), until, details)


_PAUSES = {
    "budget_exceeded": (ExplainCode.BUDGET_EXCEEDED, "A budget is used up; raise it and resume"),
    "breakpoint": (ExplainCode.BREAKPOINT, "It stopped at a breakpoint; resume it, or let one step start"),
    "stepping": (ExplainCode.STEPPING, "It did the one step it was let do; resume it, or let another start"),
}


def _paused(facts: RunFacts, _now: datetime) -> Explanation | None:
    if facts.status is not ExecutionStatus.PAUSED:
        return None
    if facts.pause_lifted and facts.ready:
        return None  # it was told to go on, and waits for a slot like others
    if facts.pause_lifted or facts.asked("resume", "step"):
        return Explanation(ExplainCode.RESUMING, "It was paused, and goes on now as somebody asked")
    word = facts.pause_reason or facts.status_reason or ""
    code, message = _PAUSES.get(word, (ExplainCode.PAUSED, "It was paused and goes on when somebody resumes it"))
    if facts.pause_detail:
        message = f"{message} ({facts.pause_detail})"
    blocker = None if facts.pause_at is None else Blocker("step", facts.pause_at)
    return Explanation(code, message, blocker, details={"step_id": facts.pause_at, "reason": facts.pause_detail})


def _not_begun(facts: RunFacts, now: datetime) -> Explanation | None:
    if facts.status is not ExecutionStatus.PENDING or facts.ready or facts.owned:
        return None
    if facts.wake_at is not None and facts.wake_at > now:
        message = "It was started with `start_at`, and that time has not come"
        details: Details = {"expires_at": facts.expires_at}
        return Explanation(ExplainCode.DELAYED_START, message, moves_at=facts.wake_at, details=details)
    return Explanation(ExplainCode.WAKING, "Its time to start has come, and a worker is about to take it up")


def _queued(facts: RunFacts, _now: datetime) -> Explanation | None:
    """Wants an owner in order to run; one that was running has its slot already."""
    if not facts.ready or facts.owned:
        return None
    if facts.status is ExecutionStatus.RUNNING:
        message = "It has no worker, as its last one stopped or was lost; another takes it up"
        return Explanation(ExplainCode.RECOVERING, message, details=_recorded(facts))
    details: Details = {"ahead": facts.ahead, "expires_at": facts.expires_at}
    rate = facts.rate
    if rate is not None and rate.begun >= rate.limit and facts.status is ExecutionStatus.PENDING:
        span = format_duration(rate.seconds)
        message = f"{rate.begun} runs have begun within {span}, and its rate limit allows {rate.limit}"
        return Explanation(ExplainCode.RATE_LIMIT, message, moves_at=rate.free_at, details=details)
    for limit in facts.limits:
        if limit.reached:
            return _held_back(limit, details)
    if facts.ahead:
        message = f"It waits for its turn: {facts.ahead} before it in its queue"
    else:
        message = "It is next in its queue and starts when a worker has room"
    return Explanation(ExplainCode.QUEUED, message, details=details)


_LIMITS: Mapping[LimitKind, tuple[ExplainCode, str]] = {
    "concurrency": (ExplainCode.CONCURRENCY_LIMIT, "with its concurrency key"),
    "user": (ExplainCode.USER_LIMIT, "of its user"),
    "organization": (ExplainCode.ORGANIZATION_LIMIT, "of its organisation"),
}


def _held_back(limit: SlotLimit, details: Details) -> Explanation:
    code, whose = _LIMITS[limit.kind]
    runs = "1 run" if limit.held == 1 else f"{limit.held} runs"
    message = f"It waits for a slot: {runs} {whose} hold one, and the limit is {limit.limit}"
    blocker = Blocker("execution", limit.holders[0]) if limit.holders else None
    shown: list[JSON] = [*limit.holders[:SHOWN]]
    counts: Details = {"limit": limit.limit, "held": limit.held, "holders": shown}
    return Explanation(code, message, blocker, details=details | counts)


def _without_worker(facts: RunFacts, now: datetime) -> Explanation | None:
    """Released without being queued: only what wakes it can move it, so what has woken it is said first."""
    if facts.owned or facts.ready or facts.status not in {ExecutionStatus.RUNNING, ExecutionStatus.WAITING}:
        return None
    if facts.status is ExecutionStatus.RUNNING:
        message = "It has no worker, as its last one stopped or was lost; another takes it up"
        return Explanation(ExplainCode.RECOVERING, message, details=_recorded(facts))
    if facts.requests:
        kinds: list[JSON] = [request.kind for request in facts.requests[:SHOWN]]
        message = "It got mail, and a worker is about to take it up"
        return Explanation(ExplainCode.WAKING, message, details={"requests": kinds})
    if facts.wake_at is not None and facts.wake_at <= now:
        return Explanation(ExplainCode.WAKING, "The time it waited for has come, and a worker is about to take it up")
    return None


def _active(facts: RunFacts, now: datetime) -> Explanation | None:
    running = _running(facts)
    if not running:
        return None
    names, details = _listed(step.step_id for step in running), _step_details(running)
    if facts.asked("pause") or facts.pause_reason is not None:
        message = f"It pauses when {names} {'ends' if len(running) == 1 else 'end'}"
        return Explanation(ExplainCode.PAUSING, message, _step_blocker(running), None, details)
    overdue = next((step for step in running if _is_overdue(step, now)), None)
    if overdue is not None and overdue.timeout is not None:
        limit = format_duration(overdue.timeout)
        message = f"Step '{overdue.step_id}' is past its timeout of {limit}; if its worker is gone, another takes over"
        blocker = Blocker("step", overdue.step_id)
        return Explanation(ExplainCode.OVERDUE_STEP, message, blocker, None, details | _recorded(facts))
    verb = "is running" if len(running) == 1 else "are running"
    ends = [_ends_at(step) for step in running]
    latest = max((end for end in ends if end is not None), default=None)
    return Explanation(
        ExplainCode.RUNNING, f"{names.capitalize()} {verb}", _step_blocker(running), latest, details | _recorded(facts)
    )


def _waiting(facts: RunFacts, _now: datetime) -> Explanation | None:
    waiting = _in_status(facts, StepStatus.WAITING)
    gate = next((approval for approval in facts.approvals if approval.step_id is None), None)
    if not waiting:
        return None if gate is None else _for_approval(gate, None, {})
    timed = [(step.wake_at, index) for index, step in enumerate(waiting) if step.reason in _TIMERS and step.wake_at]
    details = _step_details(waiting)
    if timed:
        return _for_time(waiting[min(timed)[1]], details)
    first = min(waiting, key=lambda step: _LETTERS.index(step.reason) if step.reason in _LETTERS else len(_LETTERS))
    match first.reason:
        case "approval":
            mine = [one for one in facts.approvals if one.step_id == first.step_id or one.id in first.topics]
            return _for_approval(mine[0] if mine else None, first, details)
        case "child":
            return _for_child(first, details)
        case "signal":
            return _for_signal(first, details)
        case _:
            return _for_time(first, details)


_LETTERS = ("approval", "signal", "child")
_TIMERS = {
    "retry": ExplainCode.RETRY_BACKOFF,
    "delay": ExplainCode.DELAY,
    "repeat": ExplainCode.REPEAT_INTERVAL,
}


def _for_time(step: StepFact, details: Details) -> Explanation:
    code = _TIMERS.get(step.reason or "", ExplainCode.DELAY)
    match code:
        case ExplainCode.RETRY_BACKOFF:
            message = f"Step '{step.step_id}' failed at attempt {step.attempt} and is tried again: {_error(step)}"
        case ExplainCode.REPEAT_INTERVAL:
            message = f"Step '{step.step_id}' repeats, and its next turn has not come"
        case _:
            message = f"Step '{step.step_id}' waits for its time"
    last: Details = {"last_error": step.error, "last_error_code": step.error_code}
    return Explanation(code, message, Blocker("step", step.step_id), step.wake_at, details | last)


def _for_approval(approval: ApprovalFact | None, step: StepFact | None, details: Details) -> Explanation:
    deadline = approval.deadline if approval is not None else step.wake_at if step is not None else None
    if approval is None:
        blocker = Blocker("approval", step.topics[0]) if step is not None and step.topics else None
        message = "An approval is being decided"
    else:
        blocker = Blocker("approval", approval.id)
        message = f"It waits for somebody to decide on '{approval.title}'"
        if approval.quorum > 1:
            message += f"; {approval.approved} of {approval.quorum} have approved"
        details = details | {"quorum": approval.quorum, "approved": approval.approved}
    return Explanation(ExplainCode.APPROVAL, message, blocker, deadline, details | {"deadline": deadline})


def _for_child(step: StepFact, details: Details) -> Explanation:
    child = step.topics[0] if step.topics else None
    named = "another execution" if child is None else f"execution {child}"
    blocker = None if child is None else Blocker("execution", child)
    message = f"Step '{step.step_id}' waits for the end of {named}"
    return Explanation(ExplainCode.CHILD, message, blocker, step.wake_at, details)


def _for_signal(step: StepFact, details: Details) -> Explanation:
    names = (" and " if step.mode == "all" else " or ").join(f"'{name}'" for name in step.topics[:SHOWN]) or "any"
    blocker = Blocker("signal", step.topics[0]) if step.topics else None
    message = f"Step '{step.step_id}' waits for the signal {names}"
    signals: list[JSON] = [*step.topics[:SHOWN]]
    return Explanation(ExplainCode.SIGNAL, message, blocker, step.wake_at, details | {"signals": signals})


_REASONS: tuple[Callable[[RunFacts, datetime], Explanation | None], ...] = (
    _ended, _cancelling, _paused, _not_begun, _queued, _without_worker, _active, _waiting,
)  # fmt: skip


def _running(facts: RunFacts) -> list[StepFact]:
    return _in_status(facts, StepStatus.RUNNING)


def _in_status(facts: RunFacts, status: StepStatus) -> list[StepFact]:
    """A step that runs for each of its items is as its items are: it is left out when they are there."""
    ids = [step.step_id for step in facts.steps]
    whole = {step_id[:at] for step_id in ids for at, letter in enumerate(step_id) if letter == "["}
    return [step for step in facts.steps if step.status is status and step.step_id not in whole]


def _is_overdue(step: StepFact, now: datetime) -> bool:
    end = _ends_at(step)
    return end is not None and now - end > OVERDUE_AFTER


def _ends_at(step: StepFact) -> datetime | None:
    if step.since is None or step.timeout is None:
        return None
    return step.since + timedelta(seconds=step.timeout)


def _error(step: StepFact) -> str:
    return step.error or step.error_code or "its worker was lost"


def _step_blocker(steps: Sequence[StepFact]) -> Blocker | None:
    return Blocker("step", steps[0].step_id) if steps else None


def _step_details(steps: Sequence[StepFact]) -> Details:
    listed: list[JSON] = [
        {
            "step_id": step.step_id,
            "status": step.status.value,
            "reason": step.reason,
            "attempt": step.attempt,
            "since": _text(step.since),
            "wake_at": _text(step.wake_at),
            "timeout_seconds": step.timeout,
            "awaits": [*step.topics[:SHOWN]],
        }
        for step in steps[:SHOWN]
    ]
    return {"steps": listed, "step_count": len(steps)}


def _recorded(facts: RunFacts) -> Details:
    return {"last_recorded_at": facts.last_recorded_at}


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp_text(moment)


def _listed(step_ids: Iterable[str]) -> str:
    names = [f"'{step_id}'" for step_id in step_ids]
    if len(names) == 1:
        return f"step {names[0]}"
    shown = ", ".join(names[:3])
    return f"steps {shown}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
