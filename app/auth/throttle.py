"""Brakes on guessing passwords: a sliding window of failed sign-ins per account and per address, in this process."""

import ipaddress
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from app import clock
from app.auth.errors import RateExceeded, Standing


class FailureWindow:
    """At most `limit` failures per key within `period` seconds.

    Remembers at most `capacity` keys and forgets the one that failed longest ago.
    """

    def __init__(self, limit: int, period: float, capacity: int) -> None:
        self._limit = limit
        self._period = period
        self._capacity = capacity
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, key: str, now: float) -> float:
        """Seconds until `key` may try again; 0 means now."""
        failures = self._failures.get(key)
        if failures is None:
            return 0.0
        while failures and failures[0] <= now - self._period:
            failures.popleft()
        return failures[0] + self._period - now if len(failures) >= self._limit else 0.0

    def add(self, key: str, now: float) -> None:
        self._failures.setdefault(key, deque(maxlen=self._limit)).append(now)
        self._failures.move_to_end(key)
        if len(self._failures) > self._capacity:
            self._failures.popitem(last=False)

    def withdraw(self, key: str, at: float) -> None:
        failures = self._failures.get(key)
        if failures is not None and at in failures:
            failures.remove(at)
            if not failures:
                del self._failures[key]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A sign-in that was let through."""

    account: str
    network: str | None
    at: float


class SignInThrottle:
    """10 failures per account and 30 per address within a minute.

    An attempt counts from the moment it is let through and is withdrawn when it turns out well: a thousand at once
    do not all slip in before the first has failed.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = clock.monotonic,
        per_account: int = 10,
        per_address: int = 30,
        period: float = 60.0,
        capacity: int = 10_000,
    ) -> None:
        self._monotonic = monotonic
        self._per_account = per_account
        self._period = period
        self._accounts = FailureWindow(per_account, period, capacity)
        self._networks = FailureWindow(per_address, period, capacity)

    def admit(self, account: str, ip_address: str | None) -> Attempt:
        """Let one attempt through and count it, or raise RateExceeded."""
        now = self._monotonic()
        network = None if ip_address is None else network_of(ip_address)
        wait = self._accounts.wait(account, now)
        if network is not None:
            wait = max(wait, self._networks.wait(network, now))
        if wait > 0:
            seconds = math.ceil(wait)
            standing = Standing("sign-ins", self._per_account, math.ceil(self._period), 0, seconds)
            detail = f"Too many failed sign-ins; try again in {seconds} s."
            raise RateExceeded(detail, retry_after=seconds, standing=standing)
        self._accounts.add(account, now)
        if network is not None:
            self._networks.add(network, now)
        return Attempt(account, network, now)

    def withdraw(self, attempt: Attempt) -> None:
        """The attempt was no failure."""
        self._accounts.withdraw(attempt.account, attempt.at)
        if attempt.network is not None:
            self._networks.withdraw(attempt.network, attempt.at)


def network_of(ip_address: str) -> str:
    """What one person holds: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        address = ipaddress.ip_address(ip_address)
    except ValueError:
        return ip_address
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
