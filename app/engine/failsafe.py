"""The last resort: end an execution as FAILED with the least that can be written, when nothing more can be said."""

from datetime import datetime
from typing import NamedTuple

from app import clock
from app.domain import events
from app.domain.changes import Event
from app.domain.errors import Failure
from app.domain.states import ExecutionStatus
from app.engine.ports import Recorder, RecordResult
from app.engine.rows import EndRow, ExecutionRow
from app.engine.transition import Fence, Transition


class Position(NamedTuple):
    """Where the record of an execution ends."""

    write_no: int
    next_seq: int
    progress: int

    @classmethod
    def of(cls, transition: Transition) -> "Position":
        row = transition.row
        return cls(row.write_no, row.next_seq, row.progress)


async def give_up(
    fence: Fence, recorded: Position, recorder: Recorder, failure: Failure, now: datetime
) -> RecordResult:
    """Record the execution as FAILED straight behind what is recorded; its steps stay as they are there."""
    data = events.ExecutionFailed(error_message=failure.message, error_code=failure.code, progress=recorded.progress)
    row = ExecutionRow(
        id=fence.execution_id,
        owner=fence.owner,
        epoch=fence.epoch,
        write_no=recorded.write_no + 1,
        status=ExecutionStatus.FAILED.value,
        status_reason=failure.code,
        status_message=failure.message,
        progress=recorded.progress,
        next_seq=recorded.next_seq + 1,
        recorded_at=now,
        releases=True,
        ends=True,
        error=failure.message,
        error_code=failure.code,
    )
    ended = Event(recorded.next_seq, "execution_failed", None, now, recorded.progress, data)
    end = EndRow(fence.execution_id, clock.new_id("audit"), ())
    return await recorder.record(Transition(row, events=(ended,), end=end))
