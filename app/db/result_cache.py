"""Results of steps that may be used again, on a connection of its own."""

from app.db.link import PIN_PLANS, Connect, Link
from app.engine.ports import CachedResult

GET = "SELECT output, ports FROM result_cache WHERE org_id = $1 AND key = $2 AND expires_at > clock_timestamp()"

PUT = """
WITH gone AS (
  DELETE FROM result_cache WHERE (org_id, key) IN
    (SELECT org_id, key FROM result_cache WHERE expires_at <= clock_timestamp() AND (org_id, key) <> ($1, $2)
      ORDER BY expires_at LIMIT 100 FOR UPDATE SKIP LOCKED)
)
INSERT INTO result_cache (org_id, key, output, ports, expires_at)
VALUES ($1, $2, $3, $4, clock_timestamp() + $5 * interval '1 second')
ON CONFLICT (org_id, key) DO UPDATE SET
  output = excluded.output, ports = excluded.ports, created_at = clock_timestamp(), expires_at = excluded.expires_at"""
"""Whoever adds a result clears away some that are too old, so the cache needs no cleaner of its own."""


class PostgresResultCache:
    """Implements `app.engine.ports.ResultCache`."""

    def __init__(self, connect: Connect) -> None:
        self._link = Link(connect, PIN_PLANS)

    async def close(self) -> None:
        await self._link.close()

    async def get(self, org_id: str, key: str) -> CachedResult | None:
        rows = await self._link.read(GET, org_id, key)
        return CachedResult(rows[0]["output"], frozenset(filter(None, rows[0]["ports"].split(",")))) if rows else None

    async def put(self, org_id: str, key: str, result: CachedResult, ttl: float) -> None:
        await self._link.fetch(PUT, org_id, key, result.output_text, ",".join(sorted(result.ports)), ttl)
