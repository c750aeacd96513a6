"""The recorder: the one writer of executions, steps, attempts and events, by fenced group commits.

Guarantees. A transition is written whole or not at all, only by the owner in its lease epoch, and exactly once: when
the answer to a commit is lost, the batch is sent again unchanged, and finding its write number tells that it was
recorded. Events are published after their commit. A transition whose content the database refuses fails alone. While
the database is away, transitions wait; accepting new executions fails after `ACCEPT_SECONDS` instead.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import NamedTuple
from zlib import crc32

import asyncpg
import structlog

from app import clock
from app.crashpoints import crashpoint
from app.db.accept_sql import ACCEPTED, KEPT_KEYS, accepting
from app.db.errors import domain_error
from app.db.group_commit import GroupCommit, OnFlush, Refused, ignore_flush
from app.db.link import PIN_PLANS, Connect, Link
from app.db.record_sql import POSITIONS, recording
from app.domain.errors import Problem, Problems, StepstreamError, Unavailable, clean_text
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
LONGEST_PAUSE = 2.0

log = structlog.get_logger("recorder")

AcceptResult = Accepted | AlreadyAccepted | StepstreamError


class _Offer(NamedTuple):
    """A new execution, who is to own it, and the monotonic time at which whoever offered it stops waiting."""

    new: NewExecution
    worker_id: str | None
    until: float

    def bytes(self) -> int:
        return len(self.new.input_text) + len(self.new.labels_text)


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
        writers: int = 1,
        on_flush: OnFlush = ignore_flush,
    ) -> None:
        self._acceptor = Link(connect, PIN_PLANS)
        self._accepting = GroupCommit[_Offer, AcceptResult](
            self._accept, _accept_refused, weigh=_Offer.bytes, on_flush=on_flush
        )
        self._writers = [_Writer(Link(connect, PIN_PLANS), bus, sender, on_flush) for _ in range(writers)]

    def start(self) -> None:
        """Begin to write; what is submitted earlier waits."""
        self._accepting.start()
        for writer in self._writers:
            writer.commits.start()

    async def stop(self) -> None:
        """Write what is waiting, if the database answers within seconds, and close the connections."""
        await asyncio.gather(self._accepting.stop(), *(writer.commits.stop() for writer in self._writers))
        await asyncio.gather(self._acceptor.close(), *(writer.link.close() for writer in self._writers))

    async def create(self, new: NewExecution, worker_id: str | None = None) -> Accepted | AlreadyAccepted:
        """Accept an execution: durable on return. Raises Unavailable, or Problems for what cannot be stored.

        With `worker_id` it is that worker's at once, if he has a lease.
        """
        answer = self._accepting.submit(_Offer(new, worker_id, clock.monotonic() + ACCEPT_SECONDS))
        timer = answer.get_loop().call_later(ACCEPT_SECONDS, _time_is_up, answer)
        try:
            result = await answer
        finally:
            timer.cancel()
        if isinstance(result, StepstreamError):
            raise result
        return result

    async def kept(self, org_id: str, key: str) -> AlreadyAccepted | None:
        """What an idempotency key stands for; raises Unavailable."""
        rows = await self._acceptor.read(KEPT_KEYS, [org_id], [key])
        return next((AlreadyAccepted(row["execution_id"], row["fingerprint"]) for row in rows), None)

    def record(self, transition: Transition) -> Awaitable[RecordResult]:
        """Write one transition; its events are published even if nobody waits for the answer any more."""
        writer = self._writers[crc32(transition.row.id.encode()) % len(self._writers)]
        return writer.commits.submit(transition)

    async def settled(self) -> None:
        """Wait until every transition given so far is written, or known not to be."""
        await asyncio.gather(*(writer.commits.settled() for writer in self._writers))

    async def _accept(self, batch: Sequence[_Offer]) -> Sequence[AcceptResult]:
        """Accept a batch. What nobody waits for any more is not sent: its sender was told to try again."""
        now = clock.monotonic()
        timely = [(offer.new, offer.worker_id) for offer in batch if offer.until > now]
        found = await self._accept_timely(timely) if timely else {}
        return [found.get(offer.new.id) or _unanswered() for offer in batch]

    async def _accept_timely(self, news: Sequence[tuple[NewExecution, str | None]]) -> dict[str, AcceptResult]:
        """By execution id. A lost answer is asked for again: ACCEPT inserts nothing twice."""
        try:
            statement, arguments = accepting(news)
            try:
                rows = await self._acceptor.fetch(statement, *arguments)
            except Unavailable:
                rows = await self._acceptor.fetch(statement, *arguments)
        except Exception as error:
            raise _refusal(error) or error from error
        crashpoint("in_accept")
        found: dict[str, AcceptResult] = {row["id"]: Accepted(row["created_at"], row["owned"]) for row in rows}
        missing = [new for new, _ in news if new.id not in found]
        return found | await self._kept(missing) if missing else found

    async def _kept(self, missing: Sequence[NewExecution]) -> dict[str, AcceptResult]:
        """What stands for executions that ACCEPT did not insert: themselves after a lost answer, or an earlier key."""
        stored = await self._acceptor.read(ACCEPTED, [new.id for new in missing])
        found: dict[str, AcceptResult] = {row["id"]: Accepted(row["created_at"]) for row in stored}
        keyed = [new for new in missing if new.idempotency_key is not None and new.id not in found]
        rows = await self._acceptor.read(KEPT_KEYS, [n.org_id for n in keyed], [n.idempotency_key for n in keyed])
        kept = {(row["org_id"], row["key"]): AlreadyAccepted(row["execution_id"], row["fingerprint"]) for row in rows}
        for new in keyed:
            if earlier := kept.get((new.org_id, new.idempotency_key)):
                found[new.id] = earlier
        return found


class _Writer:
    """One connection's stream of transitions."""

    def __init__(self, link: Link, bus: EventBus, sender: str, on_flush: OnFlush) -> None:
        self.link = link
        self._bus = bus
        self._sender = sender
        self.commits = GroupCommit[Transition, RecordResult](
            self._write,
            lambda _, error: Rejected(error.detail),
            weigh=Transition.bytes,
            on_flush=on_flush,
            by_halves=True,
        )

    async def _write(self, batch: Sequence[Transition]) -> Sequence[RecordResult]:
        """Commit a batch and publish its events."""
        crashpoint("before_commit")
        recorded = await self._commit(batch)
        crashpoint("after_commit_before_publish")
        for t in batch:
            if t.row.id in recorded:
                self._bus.publish(t.row.id, t.events)
        return [Recorded() if t.row.id in recorded else LeaseLost() for t in batch]

    async def _commit(self, batch: Sequence[Transition]) -> set[str]:
        """The ids recorded; waits out whatever is wrong with the database, and then finds out what it had done."""
        pause, unanswered = 0.05, False
        while True:
            try:
                statement, arguments = recording(batch, self._sender)
                rows = await self.link.fetch(statement, *arguments)
                recorded = set(rows[0]["recorded"] or ())
                if unanswered:
                    recorded |= await self._recorded_before(batch)
                return recorded
            except Unavailable as error:
                log.warning("database_away", reason=error.error_code, waiting=len(batch), retry_in=pause)
            except Exception as error:
                if refusal := _refusal(error):
                    raise refusal from error
                log.exception("record_failed", waiting=len(batch), retry_in=pause)
            unanswered = True
            await asyncio.sleep(pause * (0.5 + clock.jitter() / 2))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _recorded_before(self, batch: Sequence[Transition]) -> set[str]:
        rows = await self.link.fetch(POSITIONS, [t.row.id for t in batch])
        stored = {row["id"]: (row["lease_epoch"], row["write_no"]) for row in rows}
        return {t.row.id for t in batch if stored.get(t.row.id) == (t.row.epoch, t.row.write_no)}


_CONTENT = ("22", "23", "54", "SS")
"""SQLSTATE classes that speak of what was sent: data, constraints, limits, and our own triggers' verdicts."""


def _refusal(error: Exception) -> Refused | None:
    """The refusal that an error means, None for one that speaks of the surroundings: rights, schema, connection.

    An error that is not the database's arose from arguments that cannot even be sent.
    """
    if isinstance(error, asyncpg.PostgresError):
        if not (error.sqlstate or "").startswith(_CONTENT):
            return None
    elif isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | StepstreamError):
        return None
    state = getattr(error, "sqlstate", None) or "no SQLSTATE"
    return Refused(clean_text(f"{type(error).__name__} ({state}): {error}", 300))


def _accept_refused(offer: _Offer, refusal: Refused) -> AcceptResult:
    log.error("execution_refused", execution_id=offer.new.id, reason=refusal.detail)
    meant = domain_error(refusal.__cause__) if isinstance(refusal.__cause__, Exception) else None
    problem = Problem("value_not_storable", "The database cannot store this execution", "")
    return meant or Problems("The execution cannot be stored", [problem], code="value_not_storable")


def _time_is_up(answer: "asyncio.Future[AcceptResult]") -> None:
    if not answer.done():
        answer.set_exception(_unanswered())


def _unanswered() -> Unavailable:
    return Unavailable("The database does not answer; whether the execution was accepted is unknown")
