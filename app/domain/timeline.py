"""Where the time of a run went: spans of queueing, attempts, backoff, waiting and pauses; and which edges it took.

The spans come from rows where rows tell it, and from events for what no row keeps: waits that are over, and pauses.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from app.domain.states import AttemptStatus, StepStatus

SpanKind: TypeAlias = Literal["queue", "attempt", "backoff", "wait", "paused"]

EVENT_TYPES = (
    "execution_paused", "execution_resumed", "execution_cancelling", "step_waiting", "approval_requested",
)  # fmt: skip
"""The events that spans are made from."""
AT_ONCE = timedelta(milliseconds=1)
"""Who began sooner did not queue."""
_BETWEEN_ATTEMPTS = frozenset({"retry", "repeat"})
"""Waits that lie between two attempts, which the attempts tell."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the time of a step, or (no step) of the whole run; `end` is None while it lasts.

    `reason` says what a wait is for.
    """

    step_id: str | None
    kind: SpanKind
    start: datetime
    end: datetime | None
    attempt: int | None = None
    status: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunTimes:
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class StepTimes:
    """A step as recorded. `parents` are the steps it needs, `ports` those it took."""

    step_id: str
    status: StepStatus
    attempt: int = 0
    reason: str | None = None
    attempt_started_at: datetime | None = None
    completed_at: datetime | None = None
    parents: tuple[str, ...] = ()
    ports: frozenset[str] = frozenset()
    reused: bool = False


@dataclass(frozen=True, slots=True)
class AttemptTimes:
    """One ended attempt of a step."""

    step_id: str
    attempt: int
    status: AttemptStatus
    started_at: datetime | None
    completed_at: datetime


@dataclass(frozen=True, slots=True)
class Moment:
    """An event, for what no row keeps."""

    type: str
    step_id: str | None
    at: datetime
    reason: str | None = None


def timeline(
    run: RunTimes, steps: Sequence[StepTimes], attempts: Sequence[AttemptTimes], events: Sequence[Moment]
) -> list[Span]:
    """All spans, those of the whole run first, then by step in the order given and by time."""
    spans = [
        Span(None, "queue", run.created_at, run.started_at or run.completed_at),
        *_pauses(run, events),
        *_gate(run, events),
    ]
    by_step: dict[str, list[AttemptTimes]] = {}
    for attempt in sorted(attempts, key=lambda one: one.attempt):
        by_step.setdefault(attempt.step_id, []).append(attempt)
    waits: dict[str, list[Moment]] = {}
    for event in events:
        if event.type == "step_waiting" and event.step_id is not None and event.reason not in _BETWEEN_ATTEMPTS:
            waits.setdefault(event.step_id, []).append(event)
    ended = {step.step_id: step.completed_at for step in steps}
    for step in steps:
        if not step.reused:
            own = _Step(run, step, by_step.get(step.step_id, []), waits.get(step.step_id, []), ended)
            spans.extend(sorted(own.spans(), key=lambda span: span.start))
    return spans


def _pauses(run: RunTimes, events: Sequence[Moment]) -> Iterator[Span]:
    since: Moment | None = None
    for event in events:
        if event.type == "execution_paused":
            since = since or event
        elif since is not None and event.type in {"execution_resumed", "execution_cancelling"}:
            yield Span(None, "paused", since.at, event.at, reason=since.reason)
            since = None
    if since is not None:
        yield Span(None, "paused", since.at, run.completed_at, reason=since.reason)


def _gate(run: RunTimes, events: Sequence[Moment]) -> Iterator[Span]:
    """The approval of the whole run, which is the last that happens to it."""
    for event in events:
        if event.type == "approval_requested" and event.step_id is None:
            yield Span(None, "wait", event.at, run.completed_at, reason="approval")


@dataclass(frozen=True, slots=True)
class _Step:
    run: RunTimes
    step: StepTimes
    attempts: Sequence[AttemptTimes]
    waits: Sequence[Moment]
    ended: Mapping[str, datetime | None]

    def spans(self) -> Iterator[Span]:
        yield from self._queue()
        previous: AttemptTimes | None = None
        for one in self.attempts:
            if previous is not None and one.started_at is not None:
                yield from self._between(previous, one.started_at)
            if one.started_at is not None:
                yield from self._attempt(one.attempt, one.started_at, one.completed_at, one.status.value)
            previous = one
        yield from self._now(previous)

    def _now(self, previous: AttemptTimes | None) -> Iterator[Span]:
        """The attempt under way, or the backoff before the next one."""
        step, started = self.step, self.step.attempt_started_at
        ended = 0 if previous is None else previous.attempt
        if step.attempt > ended and started is not None and step.status in {StepStatus.RUNNING, StepStatus.WAITING}:
            if previous is not None:
                yield from self._between(previous, started)
            yield from self._attempt(step.attempt, started, None, step.status.value)
        elif previous is not None and not step.status.settled:
            yield from self._between(previous, None)
        elif previous is not None and previous.status is AttemptStatus.FAILED and step.status is StepStatus.CANCELLED:
            yield from self._between(previous, step.completed_at)

    def _attempt(self, number: int, start: datetime, end: datetime | None, status: str) -> Iterator[Span]:
        """An attempt up to the moment it began to wait, and its wait."""
        wait = next((one for one in self.waits if start <= one.at and (end is None or one.at <= end)), None)
        if wait is None:
            yield Span(self.step.step_id, "attempt", start, end, number, status)
            return
        yield Span(self.step.step_id, "attempt", start, wait.at, number)
        yield Span(self.step.step_id, "wait", wait.at, end, number, status, wait.reason)

    def _between(self, earlier: AttemptTimes, until: datetime | None) -> Iterator[Span]:
        """What lies between two attempts: backoff after a failure, a new worker after a loss, else an interval."""
        if until is not None and until <= earlier.completed_at:
            return
        match earlier.status:
            case AttemptStatus.FAILED:
                kind: SpanKind = "backoff"
            case AttemptStatus.LOST:
                kind = "queue"
            case _:
                kind = "wait"
        reason = self.step.reason if kind == "wait" and until is None else None
        yield Span(self.step.step_id, kind, earlier.completed_at, until, reason=reason)

    def _queue(self) -> Iterator[Span]:
        """From when everything it needs was there to its first attempt; nothing if it began at once."""
        first = min(
            (at for at in (*(one.started_at for one in self.attempts), self.step.attempt_started_at) if at is not None),
            default=None,
        )
        needed = [self.ended.get(parent) for parent in self.step.parents]
        if self.run.started_at is None or None in needed or (first is None and self.step.status.settled):
            return
        ready = max(at for at in (self.run.started_at, *needed) if at is not None)
        until = first or self.run.completed_at
        if until is None or until - ready >= AT_ONCE:
            yield Span(self.step.step_id, "queue", ready, until)


def edge_taken(port: str | None, parent: StepTimes | None) -> bool | None:
    """Whether the run went along an edge (by a port of its parent, if any): None until the parent is settled.

    A completed parent's edge is taken, if it has a port only if that was chosen; of a failed one the plain edges are.
    """
    if parent is None or not parent.status.settled:
        return None
    if parent.status is StepStatus.FAILED:
        return port is None
    return parent.status is StepStatus.COMPLETED and (port is None or port in parent.ports)
