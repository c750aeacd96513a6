"""The chain of an audit log: what a seal says, and whether rows and seals are still what they were.

A seal stands for all rows behind the seal before it and up to a position, and its hash covers that seal's hash, so the
hash of the newest one, the head, vouches for everything before. Whoever keeps a head elsewhere can tell later that
nothing under it was changed, whatever was rewritten.

Texts are joined as `length:text,` with the length in bytes, null as `-,`, so that no two lists read the same. The
digest of a row is the SHA-256 of its columns so joined; the hash of a seal is the SHA-256 of the hash before it
(nothing for the first), of what it says so joined, and of its rows' digests.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Literal

DIGEST_SIZE = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Problem = Literal["head_unknown", "seal_missing", "seal_altered", "row_missing", "row_altered", "row_inserted"]


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain, or of a part of it: number and hash of a seal, and the position up to which it reaches."""

    seq: int = 0
    upto: int = 0
    hash: bytes = b""

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"

    @classmethod
    def named(cls, text: str) -> "Head":
        """The head that somebody kept as text; how far it reaches is not said in it."""
        seq, _, digest = text.partition(":")
        return cls(int(seq), 0, bytes.fromhex(digest))


BEGINNING = Head()


@dataclass(frozen=True, slots=True)
class Seal:
    """A seal as it is stored; `digests` are those of its rows, one behind the other."""

    seq: int
    upto: int
    audit_ids: Sequence[str]
    digests: bytes
    sealed_at: datetime
    hash: bytes

    def expected_hash(self, org_id: str, previous: Head) -> bytes:
        """The hash that it has if it is the next one behind `previous`."""
        sealed_at = (self.sealed_at - _EPOCH) // timedelta(microseconds=1)
        said = joined(org_id, str(self.seq), str(self.upto), str(sealed_at), *self.audit_ids)
        return sha256(previous.hash + said + self.digests).digest()


@dataclass(frozen=True, slots=True)
class SealedRow:
    """A row as it is now."""

    id: str
    position: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """The first thing that is not as it was: in which seal, and which row if it is one."""

    problem: Problem
    seal: int
    audit_id: str | None = None


MEANING: Mapping[Problem, str] = {
    "head_unknown": "The chain does not contain the head given: what it stood for was removed or rewritten",
    "seal_missing": "A seal is missing",
    "seal_altered": "A seal is not what the one before it and its own rows make it",
    "row_missing": "A sealed row is not at its place: it was removed or moved",
    "row_altered": "A row is not what was sealed",
    "row_inserted": "A row stands among sealed ones that was not sealed with them",
}


def joined(*texts: str | None) -> bytes:
    """A list of texts as bytes that no other list has."""
    return b"".join(b"-," if text is None else b"%d:%b," % (len(raw := text.encode()), raw) for text in texts)


def follow(org_id: str, head: Head, seals: Sequence[Seal], rows: Sequence[SealedRow]) -> tuple[Head, Broken | None]:
    """Go on from `head` along the next seals; `rows` are all between it and the last of them, by position.

    Returns how far the chain is whole, and what breaks it there.
    """
    remaining = iter(rows)
    row = next(remaining, None)
    for seal in seals:
        if seal.seq != head.seq + 1:
            return head, Broken("seal_missing", head.seq + 1)
        if seal.upto <= head.upto or seal.hash != seal.expected_hash(org_id, head):
            return head, Broken("seal_altered", seal.seq)
        mine: list[SealedRow] = []
        while row is not None and row.position <= seal.upto:
            mine.append(row)
            row = next(remaining, None)
        if (broken := _compare(seal, mine)) is not None:
            return head, broken
        head = Head(seal.seq, seal.upto, seal.hash)
    return head, None


def _compare(seal: Seal, rows: Sequence[SealedRow]) -> Broken | None:
    sealed = list(zip(seal.audit_ids, _digests(seal), strict=False))
    for (audit_id, digest), row in zip(sealed, rows, strict=False):
        if row.digest == digest:
            continue
        if row.id == audit_id:
            return Broken("row_altered", seal.seq, audit_id)
        if row.id in seal.audit_ids:
            return Broken("row_missing", seal.seq, audit_id)
        return Broken("row_inserted", seal.seq, row.id)
    if len(rows) < len(sealed):
        return Broken("row_missing", seal.seq, sealed[len(rows)][0])
    if len(rows) > len(sealed):
        return Broken("row_inserted", seal.seq, rows[len(sealed)].id)
    return None


def _digests(seal: Seal) -> Iterator[bytes]:
    return (seal.digests[start : start + DIGEST_SIZE] for start in range(0, len(seal.digests), DIGEST_SIZE))
