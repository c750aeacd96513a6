"""Acts at exact moments of runs: just before or just after their n-th event is durable, or while a child is started.

The driver is held meanwhile, so that what is done then is done at that moment and no other.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

from app import clock
from app.db.engines import DriverConnection
from app.domain.jsontext import encode
from app.engine.ports import Accepted, AlreadyAccepted, LeaseLost, NewExecution, Recorded, RecordResult
from app.engine.transition import Transition
from tests.database import Database
from tests.engine.harness import ORG, Engine, new_execution

Side = Literal["before", "after"]
Act = Callable[[], Awaitable[object]]


class Moments:
    """What is to be done when. An execution is named by its id, its child by that of the parent and `child`."""

    def __init__(self, running: Engine, connection: DriverConnection) -> None:
        self.running = running
        self._connection = connection
        self._busy = asyncio.Lock()
        self._due: dict[tuple[str, Side], list[tuple[int, Act]]] = defaultdict(list)
        self._starting: dict[str, Act] = {}
        self.parents: dict[str, str] = {}
        self.ended: set[str] = set()
        self._record, running.recorder.record = running.recorder.record, self._recorded  # type: ignore[method-assign]
        self._create, running.recorder.create = running.recorder.create, self._created  # type: ignore[method-assign]

    def at(self, execution_id: str, seq: int, side: Side, act: Act) -> None:
        """Act at an event of an execution; at those of its children with `<id>/child`."""
        self._due[execution_id, side].append((seq, act))

    def while_starting_a_child_of(self, execution_id: str, act: Act) -> None:
        self._starting[execution_id] = act

    async def start(self, workflow_id: str, execution_id: str, value: Any = None) -> None:
        """Accept an execution under an id known before."""
        await self.running.orchestrator.accept(new_execution(workflow_id, value, id=execution_id))

    async def send(self, execution_id: str, kind: str, payload: Any = None, topic: str | None = None) -> str:
        """Put mail into an inbox and ring for it; its id."""
        mail_id = clock.new_id("mail")
        async with self._busy:
            await self._connection.execute(
                "INSERT INTO execution_inbox (id, org_id, execution_id, kind, topic, payload, user_id) "
                "VALUES ($1, $2, $3, $4, $5, $6, 'user_2')",
                mail_id, ORG, execution_id, kind, topic, encode({} if payload is None else payload),
            )  # fmt: skip
            await self._connection.execute("SELECT pg_notify('stepstream_inbox', $1)", f":{execution_id}")
        return mail_id

    async def _created(self, new: NewExecution, worker_id: str | None = None) -> Accepted | AlreadyAccepted:
        if new.parent_id is not None:
            self.parents[new.id] = new.parent_id
            if act := self._starting.pop(new.parent_id, None):
                await act()
        accepted = await self._create(new, worker_id)
        await self._meet(new.id, "after", 1)
        return accepted

    async def _recorded(self, transition: Transition) -> RecordResult:
        seq = transition.row.next_seq - 1
        await self._meet(transition.row.id, "before", seq)
        result = await self._record(transition)
        if isinstance(result, Recorded | LeaseLost):
            if transition.row.ends:
                self.ended.add(transition.row.id)
            await self._meet(transition.row.id, "after", seq)
        return result

    async def _meet(self, execution_id: str, side: Side, seq: int) -> None:
        for name in (execution_id, f"{self.parents.get(execution_id)}/child"):
            due = self._due[name, side]
            now = [moment for moment in due if moment[0] <= seq]
            self._due[name, side] = [moment for moment in due if moment[0] > seq]
            for _, act in now:
                # Whoever has given the run back may be replaced meanwhile; the act is done all the same.
                await asyncio.shield(asyncio.ensure_future(act()))


@asynccontextmanager
async def moments(database: Database, running: Engine) -> AsyncIterator[Moments]:
    """Moments of the executions that an engine drives."""
    async with database.connected() as connection:
        yield Moments(running, connection)
