"""How many executions an organisation may start in a minute: counted in the database, for all processes together."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial

from app.db.group_commit import GroupCommit, Refused
from app.db.link import PIN_PLANS, Connect, Link
from app.domain.errors import Throttled

MINUTE = 60.0

TAKE = """
WITH now AS (
  SELECT date_trunc('minute', clock_timestamp()) AS minute, extract(second FROM clock_timestamp())::float8 AS second
), room AS (
  SELECT o.id, t.wanted, now.minute, now.second, CASE WHEN o.starts_minute = now.minute THEN o.starts ELSE 0 END AS used
    FROM now, unnest($1::text[], $2::int[]) AS t(id, wanted) JOIN organizations o USING (id)
   ORDER BY o.id FOR NO KEY UPDATE OF o
)
UPDATE organizations o
   SET starts_minute = room.minute, starts = room.used + least(room.wanted, greatest($3::int - room.used, 0))
  FROM room WHERE o.id = room.id
RETURNING o.id, o.starts - room.used AS granted, room.second"""


class StartQuota:
    """At most `per_minute` starts of an organisation in each minute of the database's clock; 0: any number.

    What is taken and then not used is lost until the next minute.
    """

    def __init__(self, connect: Connect, per_minute: int) -> None:
        self._per_minute = per_minute
        self._link = Link(connect, PIN_PLANS)
        self._taking = GroupCommit[str, float](self._take, _refused)

    async def close(self) -> None:
        await self._taking.stop()
        await self._link.close()

    async def take(self, org_id: str) -> None:
        """Take one start; raises Throttled (`quota_exceeded`) when there is none left, Unavailable."""
        if not self._per_minute:
            return
        self._taking.start()
        wait = await self._taking.submit(org_id)
        if wait:
            detail = f"Your organisation may start {self._per_minute} executions in a minute, and has"
            raise Throttled(detail, retry_after=math.ceil(wait), code="quota_exceeded")

    async def _take(self, org_ids: Sequence[str]) -> Sequence[float]:
        """For each the seconds to wait, 0 if it has one."""
        wanted = Counter(org_ids)
        rows = await self._link.fetch(TAKE, list(wanted), list(wanted.values()), self._per_minute)
        left = {row["id"]: row["granted"] for row in rows}
        waits = {row["id"]: MINUTE - row["second"] for row in rows}
        return list(map(partial(_one, left, waits), org_ids))


def _one(left: dict[str, int], waits: dict[str, float], org_id: str) -> float:
    if not left[org_id]:
        return waits[org_id]
    left[org_id] -= 1
    return 0.0


def _refused(_org_id: str, error: Refused) -> float:
    raise error
