"""How much of this process one target may take: so many requests at once, and hardly any while it only fails.

A target is what one organisation calls at one origin (scheme, host, port), so that neither the trouble nor the load of
an organisation is felt by another. After FAILURES in a row a target is given a rest: requests fail at once, without
being made, and are told when to come again. Then a single one goes to see. If it fails, the next rest is twice as long;
the first sign of life ends them. A thousand runs that retry thus cost a target that is down a request now and then.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app import clock
from app.domain.errors import StepError

FAILURES = 10
FIRST_REST = 1.0
LONGEST_REST = 60.0
PER_TARGET = 128
PER_ORGANISATION = 192
"""Of the connections a process may have to the outside at once."""
_KEPT = 4_096


class Targets:
    """The targets that are in use, or were failing when they were last."""

    def __init__(self, *, per_target: int = PER_TARGET, per_organisation: int = PER_ORGANISATION) -> None:
        self._per_target = per_target
        self._per_organisation = per_organisation
        self._targets: OrderedDict[tuple[str, str], _Target] = OrderedDict()
        self._organisations: dict[str, _Places] = {}

    @asynccontextmanager
    async def turn(self, org_id: str, origin: str) -> AsyncIterator[None]:
        """Inside the block make one request; a StepError that leaves it and may be retried is the target's failure.

        Waits while there are too many requests under way. Raises StepError `target_failing` while the target rests.
        """
        key = (org_id, origin)
        target = self._targets.setdefault(key, _Target(origin, self._per_target))
        organisation = self._organisations.setdefault(org_id, _Places(self._per_organisation))
        try:
            target.demand_awake()
            async with target.places, organisation:
                with_probe = target.admit()
                try:
                    yield
                except StepError as error:
                    if error.retryable:
                        target.failed(probe=with_probe)
                    else:
                        target.lives()
                    raise
                else:
                    target.lives()
                finally:
                    if with_probe:
                        target.probing = False
        finally:
            self._forget(key, org_id)

    def _forget(self, key: tuple[str, str], org_id: str) -> None:
        target, organisation = self._targets.get(key), self._organisations.get(org_id)
        if target is not None:
            self._targets.move_to_end(key)
            if not target.places.wanted and not target.failures:
                del self._targets[key]
        if organisation is not None and not organisation.wanted:
            del self._organisations[org_id]
        while len(self._targets) > _KEPT:
            self._targets.popitem(last=False)


class _Places:
    """So many at once, the others in order; knows whether anybody is in or waits."""

    def __init__(self, number: int) -> None:
        self._free = asyncio.Semaphore(number)
        self.wanted = 0

    async def __aenter__(self) -> None:
        self.wanted += 1
        try:
            await self._free.acquire()
        except BaseException:
            self.wanted -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self.wanted -= 1
        self._free.release()


class _Target:
    """One target: its places, and how it has been doing."""

    def __init__(self, origin: str, places: int) -> None:
        self.places = _Places(places)
        self.failures = 0
        self.probing = False
        self._origin = origin
        self._rests = 0
        self._rest_until = float("-inf")

    def demand_awake(self) -> None:
        """Raise StepError if the target rests, or is being looked at."""
        left = self._rest_until - clock.monotonic()
        if self.failures >= FAILURES and (left > 0 or self.probing):
            rest = self._rest()
            raise StepError(
                f"{self._origin} was not asked: it failed {self.failures} times in a row, and is given a rest",
                code="target_failing",
                # Not all at once when it is over.
                retry_after=max(left, 0.0) + rest * (0.5 + clock.jitter()),
            )

    def admit(self) -> bool:
        """Let one request through; whether it is the one that goes to see. Raises StepError as `demand_awake`."""
        self.demand_awake()
        self.probing = self.failures >= FAILURES
        return self.probing

    def failed(self, *, probe: bool) -> None:
        """A request came to nothing. Those under way when a rest began say nothing new."""
        self.failures += 1
        if probe or self.failures == FAILURES:
            self._rests += 1
            self._rest_until = clock.monotonic() + self._rest()

    def lives(self) -> None:
        """It answered."""
        self.failures = self._rests = 0
        self._rest_until = float("-inf")

    def _rest(self) -> float:
        return float(min(LONGEST_REST, FIRST_REST * 2.0 ** max(self._rests - 1, 0)))
