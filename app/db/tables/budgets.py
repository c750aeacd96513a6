"""What was used on each day, and what may be used on one."""

from sqlalchemy import BigInteger, Column, Date, Double, Integer, Table, text

from app.db.tables.base import ID, MOMENT, metadata

usage_by_day = Table(
    "usage_by_day",
    metadata,
    Column("org_id", ID, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("workflow_id", ID, primary_key=True),
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("steps", BigInteger, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost", Double, nullable=False),
    postgresql_with={"fillfactor": "50"},
)
"""Only the recorder writes here. A day's use of a workflow is the sum of its shards."""

day_budgets = Table(
    "day_budgets",
    metadata,
    Column("org_id", ID, primary_key=True),
    Column("workflow_id", ID, primary_key=True),
    Column("max_cost", Double, nullable=True),
    Column("max_tokens", BigInteger, nullable=True),
    Column("max_steps", BigInteger, nullable=True),
    Column("max_duration", Double, nullable=True),
    Column("updated_at", MOMENT, nullable=False, server_default=text("clock_timestamp()")),
    Column("updated_by", ID, nullable=False),
)
"""An empty `workflow_id` stands for all workflows of the organisation together."""
