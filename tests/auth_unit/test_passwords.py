import asyncio
import threading

import pytest
from argon2 import PasswordHasher, extract_parameters

from app.auth.passwords import Passwords


@pytest.fixture
def cheap() -> Passwords:
    return Passwords(memory_kib=8, time_cost=1)


class GatedHasher:
    """Stands in for argon2: each call waits in its thread until the gate opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.inside = 0
        self.most = 0
        self.finished = 0
        self._lock = threading.Lock()

    def hash(self, password: bytes) -> str:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.entered.release()
        self.gate.wait(30)
        with self._lock:
            self.inside -= 1
            self.finished += 1
        return password.decode()


def gated(slots: int) -> tuple[Passwords, GatedHasher]:
    passwords = Passwords(slots=slots)
    hasher = GatedHasher()
    passwords._hasher = hasher  # type: ignore[assignment]
    return passwords, hasher


async def test_only_the_password_matches_its_hash(cheap: Passwords) -> None:
    stored = await cheap.hash("correct horse")
    assert await cheap.verify(stored, "correct horse")
    assert not await cheap.verify(stored, "correct horsf")
    assert not await cheap.verify(stored, "")
    assert stored != await cheap.hash("correct horse")


@pytest.mark.parametrize("password", ["", "\x00", "a\x00b", "\ud800", "pä😀", "x" * 100_000])
async def test_any_text_can_be_a_password(cheap: Passwords, password: str) -> None:
    stored = await cheap.hash(password)
    assert await cheap.verify(stored, password)
    assert not await cheap.verify(stored, password + "\x00")


@pytest.mark.parametrize("stored", ["", "!", "$argon2id$v=19$m=8,t=1,p=1$AAAA", "$2b$12$abc", "plain"])
async def test_what_is_no_argon2_hash_matches_nothing(cheap: Passwords, stored: str) -> None:
    assert not await cheap.verify(stored, "plain")
    assert not await cheap.verify(stored, "")


async def test_the_cost_is_64_mib_three_passes_one_lane() -> None:
    passwords = Passwords()
    stored = await passwords.hash("secret")
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    assert await passwords.verify(stored, "secret")


async def test_an_unknown_user_costs_what_a_known_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords()
    seen: list[str] = []
    verify = PasswordHasher.verify

    def spy(self: PasswordHasher, stored: str, password: bytes) -> bool:
        seen.append(stored)
        return verify(self, stored, password)

    monkeypatch.setattr(PasswordHasher, "verify", spy)
    assert not await passwords.verify(None, "secret")
    assert len(seen) == 1
    assert extract_parameters(seen[0]) == extract_parameters(await passwords.hash("secret"))


async def test_a_hash_of_other_parameters_asks_to_be_renewed(cheap: Passwords) -> None:
    stored = await cheap.hash("secret")
    assert not cheap.needs_rehash(stored)
    assert Passwords().needs_rehash(stored)


async def test_at_most_two_hashes_run_at_once() -> None:
    passwords, hasher = gated(2)
    tasks = [asyncio.create_task(passwords.hash(str(number))) for number in range(6)]
    for _ in range(2):
        assert await asyncio.to_thread(hasher.entered.acquire, timeout=30)
    await asyncio.to_thread(lambda: None)
    hasher.gate.set()
    assert await asyncio.gather(*tasks) == ["0", "1", "2", "3", "4", "5"]
    assert hasher.most == 2


async def test_a_caller_that_leaves_keeps_its_slot_until_its_thread_is_done() -> None:
    passwords, hasher = gated(1)
    left = asyncio.create_task(passwords.hash("left"))
    assert await asyncio.to_thread(hasher.entered.acquire, timeout=30)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    following = asyncio.create_task(passwords.hash("following"))
    await asyncio.to_thread(lambda: None)
    assert (hasher.inside, passwords._slots.locked()) == (1, True)
    hasher.gate.set()
    assert await following == "following"
    assert (hasher.most, hasher.finished) == (1, 2)


def test_one_instance_serves_several_loops() -> None:
    passwords = Passwords(memory_kib=8, time_cost=1)
    stored = asyncio.run(passwords.hash("secret"))
    assert asyncio.run(passwords.verify(stored, "secret"))
