"""Following executions: who may, from where, and until when."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, contextmanager

from app.auth.principal import Caller
from app.db.execution_reader import ExecutionReader
from app.domain.changes import Event
from app.domain.errors import Problem, Problems
from app.domain.states import ExecutionStatus
from app.engine.ports import EventLog
from app.services.executions import there
from app.services.payloads import events_shown, stream_shown
from app.streaming.hub import EndWatch, Hub
from app.streaming.places import StreamPlaces
from app.streaming.session import follow
from app.streaming.waiting import end_of
from app.streaming.wire import WireEvent


class Streams:
    """Reading and following events within an organisation."""

    def __init__(self, reader: ExecutionReader, hub: Hub, log: EventLog, places: StreamPlaces) -> None:
        self._reader = reader
        self._places = places
        self._hub = hub
        self._log = log
        self.draining = asyncio.Event()
        """Set when this process stops: every stream ends, and clients go on elsewhere from their cursor."""

    def drain(self) -> None:
        """End every stream, and answer who waits for the end of a run."""
        self.draining.set()
        self._hub.end_waiting()

    def place(self, caller: Caller) -> AbstractContextManager[None]:
        """Inside, the caller has one more stream open; raises Throttled (`too_many_streams`)."""
        return self._places.taken(caller.org_id, caller.user_id)

    async def check(self, org_id: str, execution_id: str, after: int = 0) -> ExecutionStatus:
        """The status of an execution one may follow; raises NotFound, and Problems for a cursor from the future.

        Whoever waited for events behind such a cursor would miss those before it without a word.
        """
        row = there(await self._reader.row(org_id, execution_id))
        if after >= row["next_seq"]:
            detail = f"The execution has {row['next_seq'] - 1} events by now: there is none to go on behind"
            raise Problems(detail, [Problem("invalid_value", detail, "query:after")])
        return ExecutionStatus(row["status"])

    async def page(
        self, caller: Caller, execution_id: str, after: int, limit: int, step_id: str | None = None
    ) -> Sequence[Event]:
        """Recorded events with seq > after, with `step_id` those of a step and its items; raises NotFound."""
        await self.check(caller.org_id, execution_id)
        return events_shown(caller, await self._log.read(caller.org_id, execution_id, after, limit, step_id))

    async def follow(
        self, caller: Caller, execution_id: str, after: int, status: ExecutionStatus
    ) -> AsyncGenerator[Sequence[WireEvent], None]:
        """Batches of events with seq > after, live, until the terminal one; `status` is what `check` answered."""
        events = follow(self._hub, self._log, caller.org_id, execution_id, after, ended=status.terminal)
        async with aclosing(events) as batches:
            async for batch in batches:
                yield stream_shown(caller, batch)

    @contextmanager
    def watching_end(self, execution_id: str) -> Iterator[EndWatch]:
        """Inside, `until_terminal` hears of an end that comes."""
        watch = self._hub.watch_end(execution_id)
        try:
            if self.draining.is_set():
                watch.leave()
            yield watch
        finally:
            watch.close()

    async def until_terminal(self, org_id: str, watch: EndWatch, seconds: float) -> bool:
        """Wait for the end of an execution; False if it did not come in time, or this process stops before."""
        return await end_of(watch, self._log, org_id, seconds)
