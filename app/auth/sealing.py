"""Values sealed for storage: AES-256-GCM, each under a random key of its own, which a master key wraps.

Both are bound to what they are a value of, so a sealed value moved to another place does not open there. The id of a
master key follows from the key and tells nothing of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app import clock
from app.auth.secret import derive

_KEY, _NONCE = 32, 12


class Unreadable(ValueError):
    """Sealed with a master key that is not here, for something else, or altered."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value as it is stored; each part begins with its nonce."""

    ciphertext: bytes
    wrapped_key: bytes
    key_id: str


class MasterKeys:
    """The master keys that follow from the deployment's secrets: the first one seals, any of them opens."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        keys = [derive(secret, "secrets") for secret in secrets]
        self._keys = {derive(key, "key id")[:8].hex(): key for key in reversed(keys)}
        *_, self.current_id = self._keys

    def seal(self, value: str, bound_to: str) -> Sealed:
        """Seal a value; `bound_to` is said again to open it."""
        key = clock.random_bytes(_KEY)
        wrapped_key = _encrypt(self._keys[self.current_id], key, bound_to)
        return Sealed(_encrypt(key, value.encode(), bound_to), wrapped_key, self.current_id)

    def open(self, sealed: Sealed, bound_to: str) -> str:
        """The value; raises Unreadable."""
        return _decrypt(self._unwrapped(sealed, bound_to), sealed.ciphertext, bound_to).decode()

    def rewrapped(self, sealed: Sealed, bound_to: str) -> Sealed:
        """The same value under the current master key; raises Unreadable. The value itself is not opened."""
        key = self._unwrapped(sealed, bound_to)
        return Sealed(sealed.ciphertext, _encrypt(self._keys[self.current_id], key, bound_to), self.current_id)

    def _unwrapped(self, sealed: Sealed, bound_to: str) -> bytes:
        if sealed.key_id not in self._keys:
            raise Unreadable(f"No master key {sealed.key_id}")
        return _decrypt(self._keys[sealed.key_id], sealed.wrapped_key, bound_to)


def _encrypt(key: bytes, plain: bytes, bound_to: str) -> bytes:
    nonce = clock.random_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, bound_to.encode())


def _decrypt(key: bytes, stored: bytes, bound_to: str) -> bytes:
    try:
        return AESGCM(key).decrypt(stored[:_NONCE], stored[_NONCE:], bound_to.encode())
    except (InvalidTag, ValueError) as error:
        raise Unreadable("Sealed for something else, or altered") from error
