"""The budgets of the day and what was used of them, on a connection of its own."""

from collections.abc import Mapping

import asyncpg

from app.db.link import PIN_PLANS, Connect, Link
from app.domain.budgets import SharedBudget, Spent
from app.domain.definition import Budget

READ = """
SELECT b.org_id, b.workflow_id, b.max_cost, b.max_tokens, b.max_steps, b.max_duration,
       coalesce(u.steps, 0)::bigint AS steps, coalesce(u.seconds, 0) AS seconds,
       coalesce(u.tokens, 0)::bigint AS tokens, coalesce(u.cost, 0) AS cost
  FROM day_budgets b
  LEFT JOIN LATERAL (
    SELECT sum(steps) AS steps, sum(seconds) AS seconds, sum(tokens) AS tokens, sum(cost) AS cost FROM usage_by_day u
     WHERE u.org_id = b.org_id AND u.day = (clock_timestamp() AT TIME ZONE 'UTC')::date
       AND (b.workflow_id = '' OR u.workflow_id = b.workflow_id)) u ON true"""


class PostgresBudgetBook:
    """Implements `app.engine.ports.BudgetBook`."""

    def __init__(self, connect: Connect) -> None:
        self._link = Link(connect, PIN_PLANS)

    async def close(self) -> None:
        await self._link.close()

    async def read(self) -> Mapping[tuple[str, str | None], SharedBudget]:
        return {(row["org_id"], row["workflow_id"] or None): _budget(row) for row in await self._link.read(READ)}


def _budget(row: asyncpg.Record) -> SharedBudget:
    limits = Budget(
        max_cost=row["max_cost"],
        max_tokens=row["max_tokens"],
        max_steps=row["max_steps"],
        max_duration=row["max_duration"],
    )
    used = Spent(row["steps"], row["seconds"], row["tokens"], row["cost"])
    return SharedBudget("workflow" if row["workflow_id"] else "organization", limits, used)
