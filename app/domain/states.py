"""The states of executions and steps, and the one table of legal transitions.

A database trigger keeps the terminal states absorbing; the README draws this table and a test compares the two.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property


class ExecutionStatus(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @cached_property
    def terminal(self) -> bool:
        return self in TERMINAL


class StepStatus(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    CANCELLED = "CANCELLED"

    @cached_property
    def settled(self) -> bool:
        return self in SETTLED


class AttemptStatus(StrEnum):
    """How one attempt ended. LOST: its worker died; it counts as a recovery, not as an attempt of the retry policy."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"


_E, _S = ExecutionStatus, StepStatus

TERMINAL = frozenset({_E.COMPLETED, _E.FAILED, _E.CANCELLED})
SETTLED = frozenset({_S.COMPLETED, _S.FAILED, _S.SKIPPED, _S.CANCELLED})

LEGAL: Mapping[ExecutionStatus, frozenset[ExecutionStatus]] = {
    _E.PENDING: frozenset({_E.RUNNING, _E.PAUSED, _E.CANCELLED, _E.FAILED}),
    _E.RUNNING: frozenset({_E.WAITING, _E.PAUSED, _E.CANCELLING, _E.COMPLETED, _E.FAILED, _E.CANCELLED}),
    _E.WAITING: frozenset({_E.RUNNING, _E.PAUSED, _E.CANCELLING, _E.FAILED}),
    _E.PAUSED: frozenset({_E.PENDING, _E.RUNNING, _E.CANCELLING, _E.FAILED}),
    _E.CANCELLING: frozenset({_E.CANCELLED, _E.FAILED}),
    _E.COMPLETED: frozenset(),
    _E.FAILED: frozenset(),
    _E.CANCELLED: frozenset(),
}

LEGAL_STEP: Mapping[StepStatus, frozenset[StepStatus]] = {
    _S.PENDING: frozenset({_S.RUNNING, _S.COMPLETED, _S.SKIPPED, _S.FAILED}),
    _S.RUNNING: frozenset({_S.WAITING, _S.COMPLETED, _S.FAILED, _S.CANCELLED}),
    _S.WAITING: frozenset({_S.RUNNING, _S.WAITING, _S.COMPLETED, _S.FAILED, _S.CANCELLED}),
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset(),
    _S.SKIPPED: frozenset(),
    _S.CANCELLED: frozenset(),
}


class IllegalTransition(AssertionError):
    """A transition that the table forbids: a bug of ours, never of the input."""


def check_transition(old: ExecutionStatus, new: ExecutionStatus) -> None:
    """Raise IllegalTransition unless the table allows it."""
    if new not in LEGAL[old]:
        raise IllegalTransition(f"execution {old} → {new}")


def check_step_transition(old: StepStatus, new: StepStatus) -> None:
    """Raise IllegalTransition unless the table allows it."""
    if new not in LEGAL_STEP[old]:
        raise IllegalTransition(f"step {old} → {new}")
