"""The last resort: end an execution as FAILED with the least that can be written, when nothing more can be said."""

from dataclasses import dataclass
from datetime import datetime

from app import clock
from app.domain import events
from app.domain.changes import Ending, Event
from app.domain.errors import Failure
from app.domain.states import ExecutionStatus
from app.engine.ports import Recorder, RecordResult
from app.engine.transition import Fence, Transition


@dataclass(frozen=True, slots=True)
class Position:
    """Where the record of an execution ends."""

    write_no: int
    next_seq: int
    progress: int

    @classmethod
    def of(cls, transition: Transition) -> "Position":
        return cls(transition.write_no, transition.next_seq, transition.progress)


async def give_up(
    fence: Fence, recorded: Position, recorder: Recorder, failure: Failure, now: datetime
) -> RecordResult:
    """Record the execution as FAILED straight behind what is recorded; its steps stay as they are there."""
    data = events.ExecutionFailed(error_message=failure.message, error_code=failure.code, progress=recorded.progress)
    return await recorder.record(
        Transition(
            execution_id=fence.execution_id,
            org_id=fence.org_id,
            owner=fence.owner,
            epoch=fence.epoch,
            write_no=recorded.write_no + 1,
            status=ExecutionStatus.FAILED,
            status_reason=failure.code,
            status_message=failure.message,
            progress=recorded.progress,
            next_seq=recorded.next_seq + 1,
            recorded_at=now,
            started_at=None,
            deadline_at=None,
            wake_at=None,
            tokens_used=None,
            cost=None,
            graph_text=None,
            agent_results_text=None,
            settles_step=False,
            releases=True,
            ending=Ending(ExecutionStatus.FAILED, None, failure),
            audit_id=clock.new_id("audit"),
            steps=(),
            attempts=(),
            events=(Event(recorded.next_seq, "execution_failed", None, now, recorded.progress, data),),
            mail=(),
        )
    )
