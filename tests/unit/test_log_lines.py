"""The log of a run: every event that a person would look for there has a line, with the words of the event."""

from datetime import UTC, datetime

import pytest

from app.domain.changes import Event
from app.domain.log_lines import log_lines
from tests.unit.runs import Run

AT = datetime(2026, 1, 1, tzinfo=UTC)
DATA = {
    "step_reused": ({"step_name": "A", "reused_from": "exec_0"}, "Step 'A' is reused from exec_0"),
    "step_pinned": ({"step_name": "A"}, "Step 'A' has the output it was given"),
    "step_edited": ({"step_name": "A", "edited_by": "ann"}, "The output of step 'A' was edited by ann"),
    "signal_received": ({"name": "go"}, "Signal 'go' has come"),
    "approval_requested": ({"title": "Pay?"}, "Waiting for approval: Pay?"),
    "approval_decided": ({"decided_by": "ann", "decision": "approve"}, "A decision by ann: approve"),
    "budget_exceeded": ({"budget": "max_cost", "limit": 2.0, "used": 2.5}, "max_cost is used up: 2.5 of 2 are used"),
    "execution_paused": ({"detail": None, "reason": "stepping"}, "Paused: stepping"),
    "execution_cancelling": ({"reason": "wrong input"}, "Stopping: wrong input"),
}


@pytest.mark.parametrize("kind", DATA)
def test_what_people_do_to_a_run_is_in_its_log(kind: str) -> None:
    data, words = DATA[kind]
    (line,) = log_lines(Event(1, kind, "a", AT, 0, data), "Test", ["a"])  # type: ignore[arg-type]
    assert line.message.endswith(words)


def test_the_log_of_a_whole_run_needs_nothing_but_its_events() -> None:
    run = Run({"id": "a"}, {"id": "b", "needs": ["a"]}, control={"breakpoints": ["b"], "pins": {"a": 1}})
    run.resume().mail("cancel", {"reason": "enough"}).abort("b")
    lines = [line.message for event in run.changes.events for line in log_lines(event, "Test", ["a", "b"])]
    assert lines == [
        "Starting workflow 'Test'",
        "Execution order: a → b",
        "Step 'a' has the output it was given",
        "Paused: Before step 'b'",
        "Going on: resumed",
        "Executing step 'b'",
        "Stopping: enough",
        "Step 'b' is cancelled",
        "Stopping workflow 'Test': cancelled",
    ]
