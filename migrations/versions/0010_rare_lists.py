"""Indexes for lists of what is rare: executions that neither run nor have completed, and those of a stretch of time.

Neither costs an execution that just runs more than one entry: the first one holds it while it is PENDING, and the second
one is made of ranges of pages.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
additive = True


def upgrade() -> None:
    op.create_index(
        "ix_executions_status",
        "executions",
        ["org_id", "status", "id"],
        postgresql_where=sa.text("coalesce(status NOT IN ('RUNNING', 'COMPLETED'), false)"),
    )
    op.create_index(
        "ix_executions_created_at",
        "executions",
        ["created_at"],
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    )


def downgrade() -> None:
    op.drop_index("ix_executions_created_at", "executions")
    op.drop_index("ix_executions_status", "executions")
