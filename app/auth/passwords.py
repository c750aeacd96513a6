"""Passwords, stored as argon2id.

One hash takes 64 MiB and tens of milliseconds by design, so at most two run at once, in threads. A slot is given back
when its thread is done, not when its caller leaves: callers that hang up cannot pile up memory.
"""

import asyncio
import base64
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_T = TypeVar("_T")


class Passwords:
    """Hashes and verifies passwords; may be built before any event loop runs. Tests may lower the cost."""

    def __init__(self, *, memory_kib: int = 65_536, time_cost: int = 3, slots: int = 2) -> None:
        self._hasher = PasswordHasher(
            time_cost=time_cost, memory_cost=memory_kib, parallelism=1, hash_len=32, salt_len=16
        )
        # Well-formed, so verifying against it costs what a real one costs, and made from no password.
        self._nobodys = f"$argon2id$v=19$m={memory_kib},t={time_cost},p=1${_unpadded(bytes(16))}${_unpadded(bytes(32))}"
        self._slots = asyncio.Semaphore(slots)

    async def hash(self, password: str) -> str:
        """The encoded hash to store, with its salt and parameters."""
        return await self._in_slot(lambda: self._hasher.hash(_encoded(password)))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether this is the password. None (no such user, or one without a password) is False at the same cost."""
        return await self._in_slot(lambda: self._matches(stored, password))

    def needs_rehash(self, stored: str) -> bool:
        """Whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, stored: str | None, password: str) -> bool:
        try:
            self._hasher.verify(stored or self._nobodys, _encoded(password))
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None

    async def _in_slot(self, work: Callable[[], _T]) -> _T:
        await self._slots.acquire()
        try:
            running = asyncio.get_running_loop().run_in_executor(None, work)
        except BaseException:
            self._slots.release()
            raise
        running.add_done_callback(lambda _: self._slots.release())
        return await asyncio.shield(running)


def _encoded(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


def _unpadded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")
