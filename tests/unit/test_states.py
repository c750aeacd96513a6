"""The one table of legal transitions."""

from itertools import product

import pytest

from app.domain.states import (
    LEGAL,
    LEGAL_STEP,
    SETTLED,
    TERMINAL,
    ExecutionStatus,
    IllegalTransition,
    StepStatus,
    check_step_transition,
    check_transition,
)

EDGES = {
    "PENDING": {"RUNNING", "PAUSED", "CANCELLED", "FAILED"},
    "RUNNING": {"WAITING", "PAUSED", "CANCELLING", "COMPLETED", "FAILED", "CANCELLED"},
    "WAITING": {"RUNNING", "PAUSED", "CANCELLING", "FAILED"},
    "PAUSED": {"PENDING", "RUNNING", "CANCELLING", "FAILED"},
    "CANCELLING": {"CANCELLED", "FAILED"},
    "COMPLETED": set(),
    "FAILED": set(),
    "CANCELLED": set(),
}
STEP_EDGES = {
    "PENDING": {"RUNNING", "COMPLETED", "SKIPPED", "FAILED"},
    "RUNNING": {"WAITING", "COMPLETED", "FAILED", "CANCELLED"},
    "WAITING": {"RUNNING", "WAITING", "COMPLETED", "FAILED", "CANCELLED"},
    "COMPLETED": set(),
    "FAILED": set(),
    "SKIPPED": set(),
    "CANCELLED": set(),
}


def test_the_tables_are_those_of_the_contract() -> None:
    assert {old.value: {new.value for new in news} for old, news in LEGAL.items()} == EDGES
    assert {old.value: {new.value for new in news} for old, news in LEGAL_STEP.items()} == STEP_EDGES


def test_an_execution_moves_along_the_table_only() -> None:
    for old, new in product(ExecutionStatus, repeat=2):
        if new in LEGAL[old]:
            check_transition(old, new)
        else:
            with pytest.raises(IllegalTransition, match=f"{old} → {new}"):
                check_transition(old, new)


def test_a_step_moves_along_the_table_only() -> None:
    for old, new in product(StepStatus, repeat=2):
        if new in LEGAL_STEP[old]:
            check_step_transition(old, new)
        else:
            with pytest.raises(IllegalTransition, match=f"{old} → {new}"):
                check_step_transition(old, new)


def test_terminal_and_settled_are_exactly_the_dead_ends() -> None:
    assert (
        {status for status in ExecutionStatus if status.terminal}
        == {old for old in LEGAL if not LEGAL[old]}
        == TERMINAL
    )
    assert {status for status in StepStatus if status.settled} == {old for old in LEGAL_STEP if not LEGAL_STEP[old]}
    assert StepStatus.SKIPPED in SETTLED


def test_every_execution_can_end_and_none_goes_back_to_pending_but_from_a_pause_before_its_beginning() -> None:
    for status in ExecutionStatus:
        reached, todo = set(), [status]
        while todo:
            old = todo.pop()
            back = {ExecutionStatus.PENDING} if old is ExecutionStatus.PAUSED else set()
            for new in LEGAL[old] - reached - back:
                reached.add(new)
                todo.append(new)
        assert status.terminal or reached & TERMINAL
        assert ExecutionStatus.PENDING not in reached
