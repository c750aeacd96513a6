"""The only wall clock, monotonic clock, id source and randomness of the product.

Everything else takes time, ids and randomness as arguments. Recorded times of executions come from the database
(see `app.engine.recorded_time`), so that a jumping host clock changes no record; the wall clock serves tokens and logs.
"""

import random
import secrets
import time
from datetime import UTC, datetime

import uuid_utils

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _CROCKFORD for second in _CROCKFORD]


def now() -> datetime:
    """Wall clock, timezone-aware UTC."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds that never go backwards; only differences mean something."""
    return time.monotonic()


def jitter() -> float:
    """A random fraction in [0, 1) to spread retries."""
    return random.random()


def new_id(prefix: str) -> str:
    """A fresh sortable id such as `exec_01k…`: prefix, underscore, UUIDv7 in Crockford base32 (26 characters)."""
    return _id(prefix, uuid_utils.uuid7().int)


def least_id(prefix: str, moment: datetime) -> str:
    """What no id made at a time or later sorts before."""
    return _id(prefix, int(moment.timestamp() * 1000) << 80)


def _id(prefix: str, value: int) -> str:
    pairs = [_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)]
    return f"{prefix}_{''.join(pairs)}"


def new_secret(size: int = 32) -> str:
    """URL-safe text carrying `size` bytes of cryptographic randomness."""
    return secrets.token_urlsafe(size)


def random_bytes(size: int) -> bytes:
    """Bytes of cryptographic randomness."""
    return secrets.token_bytes(size)
