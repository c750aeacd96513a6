"""Whether and when a failed attempt is made again. Jitter is an argument, so the decision is a pure value."""

from dataclasses import dataclass

from app.domain.definition import RetryPolicy
from app.domain.durations import LONGEST
from app.domain.errors import Failure


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """`delay` seconds until the next attempt, or None: the failure is final."""

    delay: float | None


def decide_retry(policy: RetryPolicy, failure: Failure, failures: int, jitter: float) -> RetryDecision:
    """Decide after `failures` failed attempts (this one included); `jitter` is a fraction in [0, 1).

    Exponential back-off with full jitter: delay = jitter · min(max_interval, initial_interval · factor^(failures - 1)),
    never earlier than the other side's Retry-After, and never more than 366 days.
    """
    if not failure.retryable or failure.code in policy.no_retry_on or failures >= policy.max_attempts:
        return RetryDecision(None)
    ceiling = min(policy.max_interval, policy.initial_interval * _power(policy.factor, failures - 1))
    delay = ceiling * jitter if policy.jitter == "full" else ceiling
    return RetryDecision(min(max(delay, failure.retry_after or 0.0), LONGEST))


def _power(factor: float, exponent: int) -> float:
    try:
        return factor**exponent
    except OverflowError:
        return float("inf")
