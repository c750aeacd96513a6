"""Taking in mail: what has reached a run from outside becomes facts that the planner decides on.

Mail that does not fit the run's state any more is taken note of and changes nothing: whoever sent it was answered when
it was stored, and the run may have moved on since.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from app.domain import events
from app.domain.changes import Changes, note
from app.domain.compiled import CompiledWorkflow
from app.domain.control import Pause, PauseReason, Stop, StopReason, with_budget
from app.domain.decisions import EditStep
from app.domain.errors import StepError
from app.domain.evolution import evolve
from app.domain.jsontext import json_text
from app.domain.mail import LETTERS, Mail, MailKind, clean_reason
from app.domain.snapshot import Snapshot
from app.domain.states import ExecutionStatus, StepStatus
from app.domain.waits import ApprovalWait


def take_in(
    workflow: CompiledWorkflow, snapshot: Snapshot, mail: Iterable[Mail], now: datetime, changes: Changes
) -> None:
    """Take in mail, oldest first."""
    if snapshot.status.terminal:
        return
    intake = _Intake(workflow, snapshot, now, changes)
    for item in mail:
        intake.take(item)


class _Intake:
    def __init__(self, workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime, changes: Changes) -> None:
        self._workflow = workflow
        self._snapshot = snapshot
        self._control = snapshot.control
        self._now = now
        self._changes = changes

    def take(self, mail: Mail) -> None:
        payload: Mapping[str, Any] = mail.payload if isinstance(mail.payload, dict) else {}
        match mail.kind:
            case kind if kind in LETTERS:
                self._letter(mail, payload)
            case MailKind.CANCEL:
                self._stop(mail, payload, forced=False)
            case MailKind.TERMINATE:
                self._stop(mail, payload, forced=True)
            case MailKind.PAUSE:
                self._pause(mail, payload)
            case MailKind.RESUME:
                self._resume(mail, steps_left=None)
            case MailKind.STEP:
                self._resume(mail, steps_left=1)
            case MailKind.BREAKPOINTS:
                self._control.breakpoints = frozenset(payload.get("steps", ())) & self._workflow.by_id.keys()
                self._control.passed &= self._control.breakpoints
            case MailKind.BUDGET:
                self._budget(payload)
            case MailKind.EDIT:
                self._edit(mail, payload)

    def _letter(self, mail: Mail, payload: Mapping[str, Any]) -> None:
        self._snapshot.letters.append(mail)
        if mail.taken:
            return
        if mail.kind == MailKind.SIGNAL:
            data = events.SignalReceived(name=str(mail.topic), signal_id=mail.id, sent_by=mail.user_id)
            self._note("signal_received", data)
        elif mail.kind == MailKind.DECISION and str(mail.topic) in self._open_approvals():
            decided = events.ApprovalDecided(
                approval_id=str(mail.topic),
                decision="approve" if payload.get("decision") == "approve" else "reject",
                decided_by=mail.user_id,
                comment=payload.get("comment"),
            )
            self._note("approval_decided", decided, self._open_approvals()[str(mail.topic)])

    def _open_approvals(self) -> dict[str, str | None]:
        """Approvals that are waited for, with the path of the step that waits."""
        gate = self._control.gate
        found: dict[str, str | None] = {} if gate is None else {gate.approval.approval_id: None}
        for path, state in self._snapshot.unsettled():
            if isinstance(state.awaited, ApprovalWait):
                found[state.awaited.approval_id] = path
        return found

    def _stop(self, mail: Mail, payload: Mapping[str, Any], *, forced: bool) -> None:
        stop = self._snapshot.control.stop
        if stop is None:
            self._control.stop = Stop(StopReason.CANCELLED, _reason(payload), mail.user_id, forced)
        elif forced and not stop.forced and stop.reason is StopReason.CANCELLED:
            self._control.stop = replace(stop, forced=True)

    def _pause(self, mail: Mail, payload: Mapping[str, Any]) -> None:
        pause = self._control.pause
        if self._snapshot.control.stop is None and (pause is None or pause.lifted):
            since = None if pause is None else pause.since
            self._control.pause = Pause(PauseReason.PAUSED, _reason(payload), mail.user_id, since=since)

    def _resume(self, mail: Mail, *, steps_left: int | None) -> None:
        pause = self._control.pause
        if pause is None:
            return
        self._control.steps_left = steps_left
        if self._snapshot.status is ExecutionStatus.PAUSED:
            self._control.pause = replace(pause, lifted=True, lifted_by=mail.user_id)
        else:
            self._control.let_go_on()

    def _budget(self, payload: Mapping[str, Any]) -> None:
        try:
            self._control.budget = with_budget(self._control.budget, payload)
        except ValidationError:
            return

    def _edit(self, mail: Mail, payload: Mapping[str, Any]) -> None:
        step_id, output = str(payload.get("step_id")), payload.get("output")
        state = self._snapshot.steps.get(step_id)
        if state is None:
            return
        if state.status is StepStatus.PENDING:
            self._control.pins[step_id] = output
        elif self._snapshot.status is ExecutionStatus.PAUSED and self._editable(step_id):
            try:
                decision = EditStep(step_id, output, json_text(output, "The new output"), mail.user_id)
            except StepError:
                return
            evolve(self._workflow, self._snapshot, decision, self._now, self._changes)

    def _editable(self, step_id: str) -> bool:
        """What looked at the output of a step cannot have begun."""
        if self._snapshot.steps[step_id].status is not StepStatus.COMPLETED:
            return False
        return all(
            self._snapshot.steps[step.id].status is StepStatus.PENDING
            for step in self._workflow.steps
            if step_id in step.upstream
        )

    def _note(self, kind: str, data: events.EventData, step_id: str | None = None) -> None:
        note(self._snapshot, self._now, self._changes, kind, data, step_id)


def _reason(payload: Mapping[str, Any]) -> str | None:
    reason = payload.get("reason")
    return clean_reason(reason) if isinstance(reason, str) and reason else None
