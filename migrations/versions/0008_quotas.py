"""How many executions an organisation has started in the minute under way."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
additive = True


def upgrade() -> None:
    op.add_column("organizations", sa.Column("starts_minute", sa.DateTime(timezone=True)))
    op.add_column("organizations", sa.Column("starts", sa.Integer, nullable=False, server_default="0"))
    op.execute(
        "GRANT SELECT (starts_minute, starts), UPDATE (starts_minute, starts) ON organizations TO stepstream_engine"
    )


def downgrade() -> None:
    op.execute(
        "REVOKE SELECT (starts_minute, starts), UPDATE (starts_minute, starts) ON organizations "
        "FROM stepstream_engine"
    )
    op.drop_column("organizations", "starts")
    op.drop_column("organizations", "starts_minute")
