"""The time that a record bears."""

from datetime import datetime, timedelta

from app import clock
from app.engine.ports import Claim


class RecordedClock:
    """Recorded time: the database's time at the claim plus the monotonic clock since; it never goes backwards."""

    def __init__(self, claim: Claim) -> None:
        self._base = claim.claimed_at
        self._since = clock.monotonic()
        self._last = max(claim.claimed_at, claim.last_recorded_at or claim.created_at)

    def now(self) -> datetime:
        now = self._base + timedelta(seconds=clock.monotonic() - self._since)
        if now > self._last:
            self._last = now
        return self._last
