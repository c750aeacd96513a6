"""What must hold of a run and its record whatever has happened, checked after every rule of a model."""

from dataclasses import replace
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant

from app.domain.control import StopReason
from app.domain.errors import Failure
from app.domain.events import TERMINAL_TYPES
from app.domain.frontier import Frontier
from app.domain.jsontext import decode
from app.domain.planner import next_wake, plan
from app.domain.snapshot import Snapshot, split_path
from app.domain.states import StepStatus
from app.domain.step_state import CUT_OFF_REASONS, StepState, WaitReason
from app.domain.steps import Effect
from app.domain.waits import ApprovalWait, ChildWait
from tests.property.model import Process

EXECUTION_FOLD = {
    "execution_queued": "PENDING",
    "execution_started": "RUNNING",
    "execution_waiting": "WAITING",
    "execution_paused": "PAUSED",
    "execution_resumed": "RUNNING",
    "execution_cancelling": "CANCELLING",
    "execution_completed": "COMPLETED",
    "execution_failed": "FAILED",
    "execution_cancelled": "CANCELLED",
}
STEP_FOLD = {
    "step_started": "RUNNING",
    "step_retrying": "WAITING",
    "step_waiting": "WAITING",
    "step_completed": "COMPLETED",
    "step_pinned": "COMPLETED",
    "step_failed": "FAILED",
    "step_skipped": "SKIPPED",
    "step_cancelled": "CANCELLED",
}
SETTLING = {"step_completed", "step_pinned", "step_failed", "step_skipped", "step_cancelled"}
OTHER_ENDS = {"execution_timed_out", "expression_error", "queue_expired", "approval_rejected", "approval_expired"}


class Invariants(RuleBasedStateMachine):
    """To be inherited by a model that drives `process`; `settled` are the settled rows it has seen."""

    process: Process
    settled: dict[str, Any]

    @invariant()
    def planning_again_decides_nothing_new(self) -> None:
        if self.process.owned:
            assert not plan(self.process.workflow, self.process.snapshot, self.process.now)

    @invariant()
    def something_will_move_it(self) -> None:
        process = self.process
        if process.ended:
            return
        if process.owned:
            assert not process.due, "its owner would spin"
            assert (
                process.running
                or process.snapshot.control.stop
                or process.asleep
                or next_wake(process.snapshot) is not None
            )
            return
        waits = [state.awaited for _, state in process.snapshot.unsettled()]
        assert (
            process.record.ready
            or process.record.unread()
            or process.record.fields["wake_at"] is not None
            or process.record.fields["status"] == "PAUSED"
            or any(isinstance(wait, ChildWait) for wait in waits)
        )

    @invariant()
    def the_record_holds_every_fact(self) -> None:
        assert facts(self.process, self.process.restored()) == facts(self.process, self.process.snapshot)

    @invariant()
    def events_are_numbered_without_gap_and_time_goes_on(self) -> None:
        events = self.process.record.events
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        times = [event.timestamp for event in events]
        assert times == sorted(times)

    @invariant()
    def the_end_comes_once_and_last(self) -> None:
        terminal = [event for event in self.process.record.events if event.type in TERMINAL_TYPES]
        assert terminal == (self.process.record.events[-1:] if self.process.ended else [])
        if terminal:
            rows = self.process.record.rows
            assert all(StepStatus(row.status).settled for row in rows.values())
            assert rows.keys() >= self.process.workflow.by_id.keys()

    @invariant()
    def progress_is_the_formula_and_never_goes_back(self) -> None:
        progress = [event.progress for event in self.process.record.events]
        assert progress == sorted(progress)
        rows = self.process.record.rows
        states = [rows[step.id] for step in self.process.workflow.steps if step.id in rows]
        settled = [row for row in states if StepStatus(row.status).settled and row.status != "CANCELLED"]
        counted = sum(row.reason not in CUT_OFF_REASONS for row in settled)
        completed = self.process.record.fields["status"] == "COMPLETED"
        assert progress[-1] == (100 if completed else counted * 100 // len(self.process.workflow.steps))
        for event in self.process.record.events:
            assert dict(event.data).get("progress", event.progress) == event.progress

    @invariant()
    def steps_start_once_behind_their_needs_and_never_when_skipped(self) -> None:
        began: set[str | None] = set()
        settled: set[str | None] = set()
        for event in self.process.record.events:
            if "[" in str(event.step_id):
                continue
            if event.type == "step_started":
                assert event.step_id not in began | settled
                began.add(event.step_id)
                needs = {edge.parent for edge in self.process.workflow.by_id[str(event.step_id)].edges}
                assert needs <= settled
            if event.type in SETTLING:
                assert event.step_id not in settled
                assert event.type not in {"step_skipped", "step_pinned"} or event.step_id not in began
                settled.add(event.step_id)

    @invariant()
    def what_a_step_sees_of_its_ancestors_is_settled(self) -> None:
        assert {status for _, status in self.process.seen} <= {"COMPLETED", "FAILED", "SKIPPED"}

    @invariant()
    def what_a_step_saw_of_its_ancestors_is_still_so(self) -> None:
        rows = self.process.record.rows
        outputs = {path: None if row.output_text is None else decode(row.output_text) for path, row in rows.items()}
        for (path, attempt), saw in self.process.saw.items():
            if path in rows and rows[path].attempt >= attempt:
                assert saw == {other: outputs.get(other) for other in saw}

    @invariant()
    def nothing_starts_while_it_is_stopped_or_paused(self) -> None:
        held = None
        for event in self.process.record.events:
            if event.type in {"execution_cancelling", "execution_paused"}:
                held = event.type
            elif event.type == "execution_resumed" and held == "execution_paused":
                held = None
            assert held is None or event.type not in {"step_started", "step_retrying", "step_waiting"}
        kinds = [event.type for event in self.process.record.events]
        stop = self.process.snapshot.control.stop
        if stop is not None and stop.reason is StopReason.CANCELLED and not self.process.ended:
            assert kinds.count("execution_cancelling") == 1

    @invariant()
    def settled_steps_never_change_but_by_an_edit(self) -> None:
        for path, row in self.process.record.rows.items():
            if StepStatus(row.status).settled:
                known = (row.status, row.attempt, row.completed_at, None if row.edited_by else row.output_text)
                before: Any = self.settled.get(path, known)
                assert before == known or (row.edited_by and before[:3] == known[:3])
                self.settled[path] = known

    @invariant()
    def an_effect_that_must_happen_once_is_not_repeated_unless_it_failed(self) -> None:
        for path, launched in self.process.launched.items():
            step = self.process.workflow.step(path)
            if step.effect is Effect.ONCE:
                assert set(launched[:-1]) <= ({"failed"} if step.until is None else {"failed", "done"})

    @invariant()
    def rows_hold_what_their_status_has(self) -> None:
        for path, row in self.process.record.rows.items():
            assert (row.wake_at is not None) == (row.status == "WAITING" and row.reason != WaitReason.CHILD)
            assert (row.completed_at is not None) == StepStatus(row.status).settled
            assert row.status != "COMPLETED" or row.output_text is not None
            assert (row.awaits_text is not None) == (row.reason in {"signal", "approval", "child"})
            if row.error_code == "outcome_unknown" and row.items is None:
                assert self.process.record.attempts[path, row.attempt] == "LOST"

    @invariant()
    def attempts_are_numbered_and_within_the_policy(self) -> None:
        recorded: dict[str, dict[int, str]] = {}
        for (path, number), status in self.process.record.attempts.items():
            recorded.setdefault(path, {})[number] = status
        for path, attempts in recorded.items():
            step = self.process.workflow.step(path)
            rounds = 1 if step.definition.repeat is None else step.definition.repeat.max
            assert sorted(attempts) == list(range(1, len(attempts) + 1))
            failed = sum(status == "FAILED" for status in attempts.values())
            assert failed <= step.retry.max_attempts * rounds
            assert rounds > 1 or failed == self.process.record.rows[path].failures, "what was lost did not fail"
            assert sum(status == "COMPLETED" for status in attempts.values()) <= rounds

    @invariant()
    def the_results_of_items_are_complete_and_in_order(self) -> None:
        rows = self.process.record.rows
        for path, row in rows.items():
            step_id, index = split_path(path)
            if index is None and row.items is not None and row.status == "COMPLETED" and row.edited_by is None:
                items = [rows[f"{step_id}[{number}]"] for number in range(row.items)]
                assert all(StepStatus(item.status).settled for item in items)
                results = [None if item.status != "COMPLETED" else decode(item.output_text or "") for item in items]
                assert decode(row.output_text or "") == results

    @invariant()
    def approvals_are_open_exactly_while_they_are_waited_for(self) -> None:
        process = self.process
        waits = [state.awaited for _, state in process.snapshot.unsettled()]
        waited = {wait.approval_id for wait in waits if isinstance(wait, ApprovalWait)}
        gate = process.snapshot.control.gate
        if gate is not None and not gate.approved and not process.ended:
            waited.add(gate.approval.approval_id)
        if process.owned or process.ended:
            assert {name for name, status in process.record.approvals.items() if status == "PENDING"} == waited

    @invariant()
    def a_child_that_nobody_waits_for_any_more_is_told_once(self) -> None:
        record, waits = self.process.record, [state.awaited for _, state in self.process.snapshot.unsettled()]
        waited = set() if self.process.ended else {w.execution_id for w in waits if isinstance(w, ChildWait)}
        heard = {mail.topic for mail in record.mail if mail.id in record.used}
        assert len(record.given_up) == len({*record.given_up})
        assert record.children - waited - heard <= {*record.given_up}
        assert not ((waited | heard) & {*record.given_up})

    @invariant()
    def it_begins_when_its_time_has_come(self) -> None:
        began = self.process.record.fields["started_at"]
        assert began is None or began >= self.process.start_at

    @invariant()
    def the_events_tell_every_status(self) -> None:
        events = self.process.record.events
        told = [event.type for event in events if event.type in EXECUTION_FOLD]
        status = EXECUTION_FOLD[told[-1]]
        if told[-1] == "execution_resumed" and "execution_started" not in told:
            status = "PENDING"
        assert status == self.process.record.fields["status"]
        steps = {event.step_id: STEP_FOLD[event.type] for event in events if event.type in STEP_FOLD}
        for step in self.process.workflow.steps:
            row = self.process.record.rows.get(step.id)
            status = "PENDING" if row is None else row.status
            again = {steps.get(step.id), status} <= {"RUNNING", "WAITING"}
            assert again or steps.get(step.id, "PENDING") == status

    @invariant()
    def the_reported_failure_is_the_first(self) -> None:
        events = self.process.record.events
        if events[-1].type != "execution_failed":
            return
        steps = self.process.workflow.by_id
        stopping = [
            event
            for event in events
            if event.type == "step_failed"
            and event.step_id in steps
            and not steps[str(event.step_id)].definition.continue_on_error
        ]
        deadline = self.process.record.fields["deadline_at"]
        if stopping and (deadline is None or stopping[0].timestamp < deadline):
            assert events[-1].step_id == stopping[0].step_id
            assert dict(events[-1].data)["error_message"] == dict(stopping[0].data)["error_message"]
        else:
            assert dict(events[-1].data)["error_code"] in OTHER_ENDS


def facts(process: Process, snapshot: Snapshot) -> dict[str, Any]:
    """What a record must hold of a snapshot: not outcomes still to be decided on, nor how failures may be retried."""
    first = snapshot.first_failure
    stop = snapshot.control.stop
    recorded_stop = stop if stop is not None and stop.reason is StopReason.CANCELLED else None
    maps = {
        step_id: (
            list(items.values), {index: _fact(state) for index, state in items.active.items()}, items.results,
            items.next_index, _plain(items.failure),
        )
        for step_id, items in snapshot.maps.items()
        if snapshot.steps[step_id].status == "RUNNING"
    }  # fmt: skip
    known = {
        name: getattr(snapshot, name)
        for name in ("status", "input", "context", "next_seq", "progress", "started_at", "deadline", "agent_results")
    }
    return known | {
        "steps": {name: _fact(state) for name, state in snapshot.steps.items()},
        "maps": maps,
        "first_failure": None if first is None or not first.step_id else (first.step_id, _plain(first.failure)),
        "control": replace(snapshot.control, stop=recorded_stop),
        "letters": [] if process.ended else [replace(letter, taken=True) for letter in snapshot.letters],
        "starts": snapshot.starts,
        "counted": snapshot.counted,
        "frontier": _reached(snapshot.frontier),
    }


def _reached(frontier: Frontier) -> tuple[int, set[int], set[int], set[int]]:
    return frontier.left, {*frontier.ready}, {*frontier.under_way}, frontier.waiting


def _fact(state: StepState) -> StepState:
    reason = None if state.wait is not None else state.reason
    return replace(state, outcome=None, outcome_at=None, failure=_plain(state.failure), reason=reason)


def _plain(failure: Failure | None) -> Failure | None:
    return None if failure is None else Failure(failure.code, failure.message)
