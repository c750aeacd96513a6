"""What a random run has come through. `pytest --hypothesis-show-statistics` shows how often each was reached."""

from collections.abc import Iterator

from app.domain.changes import Event
from app.domain.compiled import CompiledWorkflow
from app.domain.jsontext import decode
from app.domain.snapshot import split_path
from tests.property.model import Record

STATUS_EVENTS = {
    "execution_queued", "execution_started", "execution_waiting", "execution_paused", "execution_resumed",
    "execution_cancelling",
}  # fmt: skip
GATE = "appr_1"


def reached(workflow: CompiledWorkflow, record: Record) -> Iterator[str]:
    """One word for each thing worth reaching."""
    yield from _endings(record)
    yield from _steps(workflow, record)
    yield from _pauses(record.events)
    yield from _letters(workflow, record)
    for name, status in record.approvals.items():
        yield f"{'gate' if name == GATE else 'approval'} {status.lower()}"
    for status in record.attempts.values():
        yield f"attempt {status.lower()}"


def _endings(record: Record) -> Iterator[str]:
    last = record.events[-1]
    before = [event.type for event in record.events[:-1] if event.type in STATUS_EVENTS]
    code = dict(last.data).get("error_code")
    yield f"{last.type} after {before[-1]}" + ("" if code is None else f": {code}")
    control = decode(record.fields["control_text"])
    assert isinstance(control, dict)
    if code == "execution_timed_out" and control.get("frozen"):
        yield "timed out after a pause"
    stop = control.get("stop")
    if isinstance(stop, dict):
        yield f"stopped by {'force' if stop.get('forced') else stop.get('code', 'asking')}"


def _steps(workflow: CompiledWorkflow, record: Record) -> Iterator[str]:
    for path, row in record.rows.items():
        step, index = workflow.step(path), split_path(path)[1]
        if row.items is not None:
            items = {record.rows[f"{path}[{n}]"].status for n in range(row.items) if f"{path}[{n}]" in record.rows}
            what = "failing" if "FAILED" in items else "whole"
            yield f"map {row.status.lower()}, {what}, {step.definition.on_item_error}"
            if "SKIPPED" in items or "CANCELLED" in items:
                yield "items cancelled"
        if index is not None and row.awaits_text is not None:
            yield "item still waited"
        if row.iteration:
            yield f"round {row.iteration + 1}{'' if row.error_code is None else ' ' + row.error_code}"
        if row.error_code in {"outcome_unknown", "signal_timeout", "approval_expired", "approval_rejected"}:
            yield f"step {row.error_code}"
        if row.edited_by is not None:
            yield "edited"
        if row.reason is not None and row.status in {"COMPLETED", "SKIPPED"}:
            yield f"{row.status.lower()}: {row.reason}"


def _pauses(events: list[Event]) -> Iterator[str]:
    doing: dict[str, str] = {}
    paused = None
    for event in events:
        if event.step_id is not None and event.type in {"step_retrying", "step_waiting", "step_started"}:
            doing[event.step_id] = str(dict(event.data).get("reason", event.type))
        elif event.step_id is not None and event.type.startswith(("step_completed", "step_failed", "step_cancelled")):
            doing.pop(event.step_id, None)
        elif event.type == "execution_paused":
            paused = str(dict(event.data)["reason"])
            yield f"paused: {paused}"
            yield from (f"paused while {what}" for what in doing.values())
        elif event.type == "execution_resumed" and paused is not None:
            yield f"resumed from {paused}"
            paused = None
        elif event.type == "budget_exceeded":
            yield f"budget {dict(event.data)['budget']}"


def _letters(workflow: CompiledWorkflow, record: Record) -> Iterator[str]:
    waits = [(event.step_id, event.timestamp) for event in record.events if event.type == "step_waiting"]
    for mail in record.mail:
        path = record.used.get(mail.id)
        if path is None:
            yield f"{mail.kind} unused"
            continue
        began = [at for name, at in waits if name == path]
        early = not began or mail.sent_at is None or mail.sent_at < max(began)
        when = "before or in an item" if early else "during the wait"
        yield f"{mail.kind} used, sent {when}"
        mode = workflow.step(path).definition.config.get("mode") if path else None
        if mail.kind == "signal":
            yield f"signal used by {mode}{' item' if '[' in path else ''}"
