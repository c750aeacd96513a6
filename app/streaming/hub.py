"""The hub: committed events fan out to bounded per-subscriber queues. It never blocks and never holds back a run.

A subscriber that cannot keep up loses its queue, not events: it is told to read the durable log from its cursor. The
same word tells subscribers that an execution run by another process has moved.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import TypeAlias

from app.domain.changes import Event
from app.domain.events import TERMINAL_TYPES
from app.engine.ports import EventLog
from app.streaming.wire import WireEvent

QUEUE_LIMIT = 256


class Subscription:
    """One subscriber's bounded queue of one execution's events."""

    def __init__(self, hub: "Hub", execution_id: str) -> None:
        self._hub = hub
        self.execution_id = execution_id
        self._queue: deque[WireEvent] = deque()
        self._stale = False
        self._arrived = asyncio.Event()

    def offer(self, events: Sequence[WireEvent]) -> None:
        """Queue events; too many, and the queue is dropped in favour of a read from the log."""
        if len(self._queue) + len(events) > QUEUE_LIMIT:
            self.invalidate()
        elif not self._stale:
            self._queue.extend(events)
            self._arrived.set()

    def invalidate(self) -> None:
        """The queue is not the whole truth: read the log."""
        self._queue.clear()
        self._stale = True
        self._arrived.set()

    async def take(self) -> list[WireEvent] | None:
        """Wait for events; None: read the log from your cursor instead."""
        await self._arrived.wait()
        self._arrived.clear()
        if self._stale:
            self._stale = False
            return None
        events = list(self._queue)
        self._queue.clear()
        return events

    def close(self) -> None:
        """Stop receiving; closing twice is fine."""
        self._hub.forget(self)


class Word(Enum):
    """What somebody who waits for an end is told: it has come, it may have, or there is no more waiting here."""

    ENDED = auto()
    LOOK = auto()
    LEAVE = auto()


class EndWatch:
    """Hears of the end of one execution, and of nothing else that happens to it."""

    def __init__(self, hub: "Hub", execution_id: str) -> None:
        self._hub = hub
        self.execution_id = execution_id
        self._word: asyncio.Future[Word] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """The end has come."""
        self._tell(Word.ENDED)

    def invalidate(self) -> None:
        """The end may have been missed."""
        self._tell(Word.LOOK)

    def leave(self) -> None:
        """This process stops."""
        self._tell(Word.LEAVE)

    async def heard(self) -> Word:
        """Wait for the next word."""
        word = await self._word
        self._word = asyncio.get_running_loop().create_future()
        return word

    def close(self) -> None:
        """Stop listening; closing twice is fine."""
        self._hub.forget(self)

    def _tell(self, word: Word) -> None:
        if not self._word.done():
            self._word.set_result(word)


_Read: TypeAlias = tuple[str, str, int, int]


class Hub:
    """Implements `app.engine.ports.EventBus`."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, set[Subscription | EndWatch]] = {}
        self._published: dict[str, int] = {}
        self._reads: dict[_Read, asyncio.Future[Sequence[WireEvent]]] = {}

    def subscribe(self, execution_id: str) -> Subscription:
        """From now on receive the execution's events; read the log for those before."""
        subscription = Subscription(self, execution_id)
        self._subscriptions.setdefault(execution_id, set()).add(subscription)
        return subscription

    def watch_end(self, execution_id: str) -> EndWatch:
        """From now on hear of the execution's end; look whether it has come before."""
        watch = EndWatch(self, execution_id)
        self._subscriptions.setdefault(execution_id, set()).add(watch)
        return watch

    async def stored(
        self, log: EventLog, org_id: str, execution_id: str, after: int, limit: int
    ) -> Sequence[WireEvent]:
        """Recorded events with seq > `after`, read once for all who ask for them in the same turn of the loop.

        They do when an execution that another process runs has moved.
        """
        read = (org_id, execution_id, after, limit)
        found = self._reads.get(read)
        if found is None:
            found = self._reads[read] = asyncio.ensure_future(self._read(log, read))
        return await asyncio.shield(found)

    async def _read(self, log: EventLog, read: _Read) -> Sequence[WireEvent]:
        del self._reads[read]  # who asks from now on may know of more
        return [WireEvent(read[1], event) for event in await log.read(*read)]

    def publish(self, execution_id: str, events: Sequence[Event]) -> None:
        """Pass on events that this process has committed."""
        subscribers = self._subscriptions.get(execution_id)
        if subscribers and events:
            self._published[execution_id] = events[-1].seq
            ended = events[-1].type in TERMINAL_TYPES
            told: list[WireEvent] = []
            for subscriber in subscribers:
                if isinstance(subscriber, Subscription):
                    told = told or [WireEvent(execution_id, event) for event in events]
                    subscriber.offer(told)
                elif ended:
                    subscriber.end()

    def moved(self, execution_ids: Sequence[str]) -> None:
        """Some process committed events of these executions (none given: of any)."""
        for execution_id in execution_ids or list(self._subscriptions):
            for subscription in self._subscriptions.get(execution_id, ()):
                subscription.invalidate()

    def end_waiting(self) -> None:
        """Whoever waits for an end waits elsewhere from now on."""
        for watchers in self._subscriptions.values():
            for watch in watchers:
                if isinstance(watch, EndWatch):
                    watch.leave()

    def caught_up(self, execution_id: str, last_seq: int) -> bool:
        """True if everything up to `last_seq` went through this hub since somebody subscribed."""
        return self._published.get(execution_id, 0) >= last_seq

    @property
    def followed(self) -> list[str]:
        """Executions with at least one subscriber."""
        return list(self._subscriptions)

    @property
    def subscribers(self) -> int:
        return sum(len(subscriptions) for subscriptions in self._subscriptions.values())

    def forget(self, subscription: Subscription | EndWatch) -> None:
        remaining = self._subscriptions.get(subscription.execution_id)
        if remaining is not None:
            remaining.discard(subscription)
            if not remaining:
                del self._subscriptions[subscription.execution_id]
                self._published.pop(subscription.execution_id, None)
