"""Admission: how much a process takes on at once. What is one too many is told so before anything is asked for it.

A request holds a place from the moment it has arrived whole until it is answered, so that slow clients hold none. Who
only waits, for the end of a run or for events, gives the place back. One organisation gets three quarters of the
places, so that there are some for others. What queues behind a place, as new executions do for the recorder, is
bounded by the places; transitions of running executions are bounded by their number.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.domain.errors import Unavailable

RETRY_SECONDS = 1


def overloaded(detail: str) -> Unavailable:
    """The refusal of what is one too many."""
    return Unavailable(detail, code="overloaded", retry_after=RETRY_SECONDS)


class Admission:
    """At most `places` requests at once with bodies of `max_bytes` together, and `waiting` more that only wait."""

    def __init__(self, places: int, waiting: int, max_bytes: int) -> None:
        self._places = places
        self._share = max(1, places * 3 // 4)
        self._max_waiting = waiting
        self._max_bytes = max_bytes
        self._taken = 0
        self._bytes = 0
        self._waiting = 0
        self._of_org: Counter[str] = Counter()

    def enter(self, size: int) -> "Place":
        """A place for a request with a body of `size` bytes; raises Unavailable (`overloaded`)."""
        if self._taken >= self._places or (self._bytes and self._bytes + size > self._max_bytes):
            raise overloaded("This server has as many requests as it can serve at once; send it again in a moment")
        self._taken += 1
        self._bytes += size
        return Place(self, size)

    def claim(self, org_id: str) -> None:
        """Count one of the places as an organisation's; raises Unavailable (`overloaded`) if it has its share."""
        if self._of_org[org_id] >= self._share:
            raise overloaded("Your organisation has its share of the requests that are served at once")
        self._of_org[org_id] += 1

    def leave(self, size: int, org_id: str | None) -> None:
        """Give a place back."""
        self._taken -= 1
        self._bytes -= size
        if org_id is None:
            return
        self._of_org[org_id] -= 1
        if not self._of_org[org_id]:
            del self._of_org[org_id]

    @contextmanager
    def waiting(self) -> Iterator[bool]:
        """Whether one more may wait; inside, one does."""
        if self._waiting >= self._max_waiting:
            yield False
            return
        self._waiting += 1
        try:
            yield True
        finally:
            self._waiting -= 1


class Place:
    """One request's place."""

    __slots__ = ("_admission", "_left", "_org_id", "_size")

    def __init__(self, admission: Admission, size: int) -> None:
        self._admission = admission
        self._size = size
        self._org_id: str | None = None
        self._left = False

    def claim(self, org_id: str) -> None:
        """The request is an organisation's; raises Unavailable if that has its share already."""
        if self._org_id is None and not self._left:
            self._admission.claim(org_id)
            self._org_id = org_id

    def leave(self) -> None:
        """Nothing more is asked for the request; leaving twice is fine."""
        if not self._left:
            self._left = True
            self._admission.leave(self._size, self._org_id)

    @contextmanager
    def waiting(self) -> Iterator[bool]:
        """Inside, the request only waits and its place is another's. False: too many do so already."""
        with self._admission.waiting() as may:
            if may:
                self.leave()
            yield may
