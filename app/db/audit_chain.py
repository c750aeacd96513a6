"""Sealing the audit log, and reading its chain. See `app.domain.audit_chain` for what a seal says.

The rows of a seal are those between two positions of one organisation. Positions are drawn in one order and committed
in another, so rows are sealed only up to a position behind which nothing can appear any more.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from app.domain.audit_chain import BEGINNING, Broken, Head, Seal, SealedRow, follow

# ruff: noqa: S608 - the statements are put together from constants

SEAL_SIZE = 1_000
ORGS_AT_ONCE = 100
SEALS_AT_ONCE = 1_000
ROWS_AT_ONCE = 20_000
COUNTED = 100_000

Rows: TypeAlias = Sequence[Mapping[str, Any]]
Ask: TypeAlias = Callable[..., Awaitable[Rows]]
"""Asks the database: a statement with $1, $2 …, then the arguments."""


def _joined(*texts: str) -> str:
    return " || ".join(f"coalesce(octet_length({text}) || ':' || {text} || ',', '-,')" for text in texts)


def _microseconds(moment: str) -> str:
    return f"((extract(epoch FROM {moment}) * 1000000)::bigint)::text"


ROW_COLUMNS = (
    "position", "id", "org_id", "user_id", "action", "resource_type", "resource_id", "details", "ip_address",
    "user_agent", "request_id", "success", "error_code", "error_message", "timestamp",
)  # fmt: skip
_AS_TEXT = {"position": "a.position::text", "success": "a.success::text", "timestamp": _microseconds("a.timestamp")}
_ROW_DIGEST = f"sha256(convert_to({_joined(*(_AS_TEXT.get(name, f'a.{name}') for name in ROW_COLUMNS))}, 'UTF8'))"

SEAL = f"""
WITH heads AS (
  SELECT o.id AS org_id, coalesce(s.seq, 0) AS seq, coalesce(s.upto, 0) AS upto, coalesce(s.hash, '') AS hash
    FROM (SELECT id FROM organizations WHERE id > $1 ORDER BY id LIMIT {ORGS_AT_ONCE}) o
    LEFT JOIN LATERAL (
      SELECT seq, upto, hash FROM audit_seals WHERE org_id = o.id ORDER BY seq DESC LIMIT 1) s ON true
), batches AS (
  SELECT h.org_id, h.seq + 1 AS seq, h.hash AS previous, b.*, statement_timestamp() AS sealed_at
    FROM heads h CROSS JOIN LATERAL (
      SELECT max(position) AS upto, count(*)::int AS size, array_agg(id ORDER BY position) AS audit_ids,
             string_agg(digest, '' ORDER BY position) AS digests,
             string_agg({_joined("id")}, '' ORDER BY position) AS joined_ids
        FROM (
          SELECT a.position, a.id, {_ROW_DIGEST} AS digest FROM audit_logs a
           WHERE a.org_id = h.org_id AND a.position > h.upto AND a.position <= $2
           ORDER BY a.position LIMIT {SEAL_SIZE}) a) b
   WHERE b.size > 0
), sealed AS (
  INSERT INTO audit_seals (org_id, seq, upto, size, audit_ids, digests, sealed_at, hash)
  SELECT org_id, seq, upto, size, audit_ids, digests, sealed_at,
         sha256(previous || convert_to(
           {_joined("org_id", "seq::text", "upto::text", _microseconds("sealed_at"))} || joined_ids, 'UTF8') || digests)
    FROM batches
  RETURNING size
)
SELECT (SELECT max(org_id) FROM heads) AS last_org, (SELECT count(*) FROM heads) AS orgs,
       coalesce(max(size), 0) AS largest, coalesce(sum(size), 0) AS rows FROM sealed"""
"""Puts the next seal on each chain behind the organisation $1, of rows up to the position $2."""

_HEAD = "SELECT seq, upto, hash FROM audit_seals WHERE org_id = $1 AND seq = $2"

_SEALS = f"""
SELECT seq, upto, audit_ids, digests, sealed_at, hash FROM audit_seals JOIN (
  SELECT seq, sum(size) OVER (ORDER BY seq) - size AS before FROM (
    SELECT seq, size FROM audit_seals WHERE org_id = $1 AND seq > $2 ORDER BY seq LIMIT {SEALS_AT_ONCE}) s
) s USING (seq) WHERE org_id = $1 AND before < {ROWS_AT_ONCE} ORDER BY seq"""

_ROWS = f"""
SELECT a.id, a.position, {_ROW_DIGEST} AS digest FROM audit_logs a
 WHERE a.org_id = $1 AND a.position > $2 AND a.position <= $3 ORDER BY a.position LIMIT $4"""

_TAIL = f"""
WITH newest AS (SELECT seq, upto FROM audit_seals WHERE org_id = $1 ORDER BY seq DESC LIMIT 1)
SELECT count(*) AS rows, min(timestamp) AS since, NOT EXISTS (SELECT FROM newest WHERE seq > $2) AS complete FROM (
  SELECT timestamp FROM audit_logs WHERE org_id = $1 AND position > coalesce((SELECT upto FROM newest), 0)
   ORDER BY position LIMIT {COUNTED}) a"""


@dataclass(frozen=True, slots=True)
class Verification:
    """A stretch of a chain held against its rows: whole up to `head`, `broken` behind it or not.

    Complete, it reached the newest seal. Behind that one `unsealed` rows wait, the oldest since `unsealed_since`.
    """

    head: Head
    seals: int
    rows: int
    broken: Broken | None
    complete: bool
    unsealed: int = 0
    unsealed_since: datetime | None = None


async def verify(ask: Ask, org_id: str, after: Head = BEGINNING) -> Verification:
    """Hold the next stretch of a chain against its rows, behind the seal of a head, from the beginning without one.

    A stretch is some 20,000 rows; what is behind it is for another call, from the head of this one. Needs one snapshot,
    or seals that are older than rows: nothing that is sealed by then may be missing.
    """
    head = await _named(ask, org_id, after.seq)
    if head.hash != after.hash:
        return Verification(after, 0, 0, Broken("head_unknown", after.seq), complete=True)
    seals = [Seal(**row) for row in await ask(_SEALS, org_id, head.seq)]
    size = sum(len(seal.audit_ids) for seal in seals)
    upto = seals[-1].upto if seals else head.upto
    rows = [SealedRow(**row) for row in await ask(_ROWS, org_id, head.upto, upto, size + 1)]
    reached, broken = follow(org_id, head, seals, rows)
    whole = [seal for seal in seals if seal.seq <= reached.seq]
    (tail,) = await ask(_TAIL, org_id, reached.seq)
    return Verification(
        head=reached,
        seals=len(whole),
        rows=sum(len(seal.audit_ids) for seal in whole),
        broken=broken,
        complete=tail["complete"],
        unsealed=tail["rows"],
        unsealed_since=tail["since"],
    )


async def _named(ask: Ask, org_id: str, seq: int) -> Head:
    rows = await ask(_HEAD, org_id, seq)
    return Head(**rows[0]) if rows else Head(seq)
