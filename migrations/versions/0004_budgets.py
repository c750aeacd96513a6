"""Budgets of a day, for a workflow or a whole organisation, and what each day used."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.Text(collation="C")
OWN_ROWS = "org_id = NULLIF(current_setting('app.org_id', true), '')"
TABLES = ("usage_by_day", "day_budgets")


def upgrade() -> None:
    op.create_table(
        "usage_by_day",
        sa.Column("org_id", ID, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("workflow_id", ID, nullable=False),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("steps", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("org_id", "day", "workflow_id", "shard", name=op.f("pk_usage_by_day")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "day_budgets",
        sa.Column("org_id", ID, nullable=False),
        sa.Column("workflow_id", ID, nullable=False),
        sa.Column("max_cost", sa.Double),
        sa.Column("max_tokens", sa.BigInteger),
        sa.Column("max_steps", sa.BigInteger),
        sa.Column("max_duration", sa.Double),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.Column("updated_by", ID, nullable=False),
        sa.PrimaryKeyConstraint("org_id", "workflow_id", name=op.f("pk_day_budgets")),
    )
    op.create_index("ix_approvals_org_id_id", "approvals", ["org_id", "id"])
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY org ON {table} TO stepstream_api USING ({OWN_ROWS}) WITH CHECK ({OWN_ROWS})")
        op.execute(f"CREATE POLICY engine ON {table} TO stepstream_engine USING (true) WITH CHECK (true)")
    op.execute("GRANT SELECT ON usage_by_day TO stepstream_api")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON day_budgets TO stepstream_api")
    op.execute("GRANT SELECT, INSERT, UPDATE ON usage_by_day TO stepstream_engine")
    op.execute("GRANT SELECT ON day_budgets TO stepstream_engine")


def downgrade() -> None:
    op.drop_index("ix_approvals_org_id_id", "approvals")
    for table in TABLES:
        op.drop_table(table)
