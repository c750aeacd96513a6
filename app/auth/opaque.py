"""Opaque credentials: API keys, refresh tokens and stream tickets.

Keys and refresh tokens read `<prefix>_<26 characters of the id>_<43 base62 characters of secret><6 of CRC32>`. The
id finds the row, the secret (256 random bits, so a fast hash is enough) proves it, and the CRC lets typing errors and
secret scanners be answered without a look-up. Tickets are the bare 43 characters. Only hashes are stored.

`randomness` is always what `clock.new_secret(32)` returns.
"""

import base64
import hashlib
import hmac
import re
import string
import zlib

API_KEY_PREFIX = "sk"
API_KEY_ID_PREFIX = "key"
REFRESH_PREFIX = "rt"

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_LENGTH = 43
_CRC_LENGTH = 6
_ID = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")
_SHAPE = re.compile(rf"([a-z]+)_({_ID.pattern})_([0-9A-Za-z]{{{_SECRET_LENGTH}}})([0-9A-Za-z]{{{_CRC_LENGTH}}})")
_TICKET = re.compile(rf"[0-9A-Za-z]{{{_SECRET_LENGTH}}}")


def new_api_key(key_id: str, randomness: str) -> str:
    """The text of a key, to be shown once; `key_id` is `key_` + 26 characters from `clock.new_id`."""
    return _compose(API_KEY_PREFIX, _bare(key_id, API_KEY_ID_PREFIX), randomness)


def parse_api_key(text: str) -> tuple[str, str] | None:
    """The key's id (`key_…`) and secret, or None if this is not the text of a key."""
    return _parsed(text, API_KEY_PREFIX, API_KEY_ID_PREFIX)


def api_key_hash(text: str) -> str:
    """What to store of a key just made."""
    return _own_hash(parse_api_key(text))


def new_refresh_token(token_id: str, randomness: str) -> str:
    """The text of a refresh token; `token_id` is `rt_` + 26 characters from `clock.new_id`."""
    return _compose(REFRESH_PREFIX, _bare(token_id, REFRESH_PREFIX), randomness)


def parse_refresh_token(text: str) -> tuple[str, str] | None:
    """The token's id (`rt_…`) and secret, or None if this is not the text of a refresh token."""
    return _parsed(text, REFRESH_PREFIX, REFRESH_PREFIX)


def refresh_token_hash(text: str) -> str:
    """What to store of a refresh token just made."""
    return _own_hash(parse_refresh_token(text))


def new_ticket(randomness: str) -> str:
    """A stream ticket: 43 characters, all of them legal in a WebSocket subprotocol name."""
    return _secret(randomness)


def ticket_hash(text: str) -> str | None:
    """The hash a ticket is found by, or None if this is not the text of a ticket."""
    return hash_secret(text) if _TICKET.fullmatch(text) else None


def hash_secret(secret: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def verify_secret(secret: str, expected_hash: str) -> bool:
    """Whether the secret has this hash, in a time that does not depend on either."""
    return hmac.compare_digest(hash_secret(secret).encode(), expected_hash.encode())


def _compose(prefix: str, bare_id: str, randomness: str) -> str:
    text = f"{prefix}_{bare_id}_{_secret(randomness)}"
    return text + _crc(text)


def _parsed(text: str, prefix: str, id_prefix: str) -> tuple[str, str] | None:
    match = _SHAPE.fullmatch(text)
    if match is None or match[1] != prefix or _crc(text[:-_CRC_LENGTH]) != match[4]:
        return None
    return f"{id_prefix}_{match[2]}", match[3]


def _own_hash(parsed: tuple[str, str] | None) -> str:
    if parsed is None:
        raise ValueError("not the text of a credential of this kind")
    return hash_secret(parsed[1])


def _bare(identifier: str, prefix: str) -> str:
    bare = identifier.removeprefix(f"{prefix}_")
    if bare == identifier or not _ID.fullmatch(bare):
        raise ValueError(f"{identifier} is not {prefix}_ and 26 base32 characters")
    return bare


def _secret(randomness: str) -> str:
    data = base64.urlsafe_b64decode(randomness + "=" * (-len(randomness) % 4))
    if len(data) != 32:
        raise ValueError("a secret takes 32 random bytes")
    return _base62(int.from_bytes(data), _SECRET_LENGTH)


def _crc(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), _CRC_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
