"""The recorder: the one writer of executions, steps, attempts and events, by fenced group commits.

Guarantees. A transition is written whole or not at all, only by the owner in its lease epoch, and exactly once: when
the answer to a commit is lost, the batch is sent again unchanged, and finding its write number tells that it was
recorded. Events are published after their commit. A transition the database refuses fails alone. While the database is
away, transitions wait; accepting new executions fails after `ACCEPT_SECONDS` instead.
"""

import asyncio
from collections.abc import Sequence
from zlib import crc32

import asyncpg
import structlog

from app import clock
from app.db.group_commit import GroupCommit, OnFlush, Refused, ignore_flush
from app.db.link import PIN_PLANS, Connect, Link
from app.db.record_sql import (
    ACCEPT,
    ACCEPTED,
    KEPT_KEYS,
    POSITIONS,
    RECORD,
    accept_arguments,
    record_arguments,
)
from app.domain.errors import Problem, Problems, Unavailable, clean_text
from app.engine.ports import (
    Accepted,
    AlreadyAccepted,
    EventBus,
    LeaseLost,
    NewExecution,
    Recorded,
    RecordResult,
    Rejected,
)
from app.engine.transition import Transition

ACCEPT_SECONDS = 10.0

log = structlog.get_logger("recorder")

AcceptResult = Accepted | AlreadyAccepted | Problems


class GroupRecorder:
    """Implements `app.engine.ports.Recorder` on dedicated connections; one execution stays on one of them.

    `sender` names this process in notifications, so that it does not listen to itself.
    """

    def __init__(
        self,
        connect: Connect,
        bus: EventBus,
        *,
        sender: str,
        writers: int = 2,
        on_flush: OnFlush = ignore_flush,
    ) -> None:
        self._bus = bus
        self._acceptor = Link(connect, PIN_PLANS)
        self._accepting = GroupCommit(self._accept, _accept_refused, on_flush)
        self._writers = [_Writer(Link(connect, PIN_PLANS), sender, on_flush) for _ in range(writers)]

    def start(self) -> None:
        self._accepting.start()
        for writer in self._writers:
            writer.commits.start()

    async def stop(self) -> None:
        """Write what is waiting, then close the connections."""
        await self._accepting.stop()
        await self._acceptor.close()
        for writer in self._writers:
            await writer.commits.stop()
            await writer.link.close()

    async def create(self, new: NewExecution) -> Accepted | AlreadyAccepted:
        """Accept an execution: durable on return. Raises Unavailable, or Problems for what cannot be stored."""
        try:
            async with asyncio.timeout(ACCEPT_SECONDS):
                result = await self._accepting.submit(new)
        except TimeoutError as error:
            raise Unavailable("The database does not answer; whether the execution was accepted is unknown") from error
        if isinstance(result, Problems):
            raise result
        return result

    async def record(self, transition: Transition) -> RecordResult:
        """Write one transition and publish its events."""
        writer = self._writers[crc32(transition.execution_id.encode()) % len(self._writers)]
        result = await writer.commits.submit(transition)
        if isinstance(result, Recorded):
            self._bus.publish(transition.execution_id, transition.events)
        return result

    async def _accept(self, batch: Sequence[NewExecution]) -> Sequence[AcceptResult]:
        arguments = accept_arguments(batch)
        try:
            rows = await self._acceptor.fetch(ACCEPT, *arguments)
        except Unavailable:
            rows = await self._acceptor.fetch(ACCEPT, *arguments)
        except Exception as error:
            raise _refused(error) from error
        created = {row["id"]: row["created_at"] for row in rows}
        missing = [new for new in batch if new.id not in created]
        kept = await self._kept(missing)
        return [
            Accepted(created[new.id]) if new.id in created else kept[new.org_id, new.idempotency_key or new.id]
            for new in batch
        ]

    async def _kept(self, missing: Sequence[NewExecution]) -> dict[tuple[str, str], AcceptResult]:
        """What stands for executions that ACCEPT did not insert: an earlier key, or themselves after a lost answer."""
        if not missing:
            return {}
        found: dict[tuple[str, str], AcceptResult] = {}
        stored = await self._acceptor.fetch(ACCEPTED, [new.id for new in missing])
        times = {row["id"]: row["created_at"] for row in stored}
        keyed = [new for new in missing if new.idempotency_key is not None]
        rows = await self._acceptor.fetch(KEPT_KEYS, [n.org_id for n in keyed], [n.idempotency_key for n in keyed])
        for row in rows:
            found[row["org_id"], row["key"]] = AlreadyAccepted(row["execution_id"], row["fingerprint"])
        for new in missing:
            if new.id in times:
                found[new.org_id, new.idempotency_key or new.id] = Accepted(times[new.id])
        return found


class _Writer:
    """One connection's stream of transitions."""

    def __init__(self, link: Link, sender: str, on_flush: OnFlush) -> None:
        self.link = link
        self._sender = sender
        self.commits = GroupCommit[Transition, RecordResult](
            self._write, lambda _, error: Rejected(error.detail), on_flush
        )

    async def _write(self, batch: Sequence[Transition]) -> Sequence[RecordResult]:
        """Commit a batch; waits out outages, and then finds out what an unanswered commit did."""
        arguments = record_arguments(batch, self._sender)
        delay, unanswered = 0.05, False
        while True:
            try:
                rows = await self.link.fetch(RECORD, *arguments)
                recorded = set(rows[0]["recorded"] or ())
                if unanswered:
                    recorded |= await self._recorded_before(batch)
                return [Recorded() if t.execution_id in recorded else LeaseLost() for t in batch]
            except Unavailable as error:
                unanswered = True
                log.warning("database_away", reason=error.code, waiting=len(batch), retry_in=delay)
            except Exception as error:
                raise _refused(error) from error
            await asyncio.sleep(delay * (0.5 + clock.jitter() / 2))
            delay = min(delay * 2, 2.0)

    async def _recorded_before(self, batch: Sequence[Transition]) -> set[str]:
        rows = await self.link.fetch(POSITIONS, [t.execution_id for t in batch])
        stored = {row["id"]: (row["lease_epoch"], row["write_no"]) for row in rows}
        return {t.execution_id for t in batch if stored.get(t.execution_id) == (t.epoch, t.write_no)}


def _refused(error: Exception) -> Refused:
    state = error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
    return Refused(clean_text(f"{type(error).__name__} ({state or 'no SQLSTATE'}): {error}", 300))


def _accept_refused(new: NewExecution, error: Refused) -> AcceptResult:
    problem = Problem("value_not_storable", "The database cannot store this execution", "")
    log.error("execution_refused", execution_id=new.id, reason=error.detail)
    return Problems("The execution cannot be stored", [problem], code="value_not_storable")
