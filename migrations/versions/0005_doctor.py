"""What `stepstream doctor` needs to read: of the audit log, what tells of starts and ends."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
additive = True

COLUMNS = "id, action, resource_id, details"


def upgrade() -> None:
    op.execute(f"GRANT SELECT ({COLUMNS}) ON audit_logs TO stepstream_engine")


def downgrade() -> None:
    op.execute(f"REVOKE SELECT ({COLUMNS}) ON audit_logs FROM stepstream_engine")
