"""How often somebody may come: so many times in a period, evenly or in a burst, in this process.

A virtual schedule for each key: every time moves its end on by one interval, and who has pushed it a whole period ahead
waits. That is one float a key and under two microseconds a call; counting a sliding window takes ten times that.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from app import clock
from app.auth.errors import RateExceeded, Standing
from app.auth.principal import Principal
from app.auth.throttle import network_of


class Rate:
    """At most `limit` times per key within `period` seconds; any number if the limit is 0.

    Remembers at most `capacity` keys and forgets the one that came longest ago.
    """

    def __init__(
        self,
        name: str,
        limit: int,
        period: int,
        *,
        monotonic: Callable[[], float] = clock.monotonic,
        capacity: int = 10_000,
    ) -> None:
        self._name = name
        self._limit = limit
        self._period = period
        self._monotonic = monotonic
        self._capacity = capacity
        self._ends: OrderedDict[str, float] = OrderedDict()

    def count(self, key: str) -> Standing | None:
        """Count one time; None if there is no limit. One too many is not counted and raises RateExceeded."""
        if not self._limit:
            return None
        now, interval = self._monotonic(), self._period / self._limit
        end = max(now, self._ends.get(key, now)) + interval
        room = self._period - (end - now)
        if room < -interval / 2:  # not exactly none: sums of floats are not exact either
            wait = max(1, math.ceil(-room))
            standing = Standing(self._name, self._limit, self._period, 0, wait)
            raise RateExceeded(f"Too many requests; try again in {wait} s.", retry_after=wait, standing=standing)
        self._ends[key] = end
        self._ends.move_to_end(key)
        if len(self._ends) > self._capacity:
            self._ends.popitem(last=False)
        return Standing(self._name, self._limit, self._period, int(room / interval + 0.5), math.ceil(end - now))


@dataclass(frozen=True, slots=True)
class Rates:
    """The limits of requests: of a user or an API key, and of an address whose credentials are refused."""

    callers: Rate
    strangers: Rate

    def count(self, principal: Principal) -> Standing | None:
        """A request of somebody known; raises RateExceeded."""
        return self.callers.count(principal.credential_id if principal.kind == "api_key" else principal.user_id)

    def count_refused(self, ip_address: str | None) -> None:
        """A request whose credential was refused; raises RateExceeded."""
        if ip_address is not None:
            self.strangers.count(network_of(ip_address))
