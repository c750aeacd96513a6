"""The audit log as a chain: every row has a position, and seals hold what stands between two positions.

A transaction has its number before it draws a position, so whoever knows that all older transactions have ended knows
that no row will appear behind the newest position of then. Numbering the rows that are there rewrites the table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
additive = True

ID = sa.Text(collation="C")
MOMENT = sa.DateTime(timezone=True)
OWN_ROWS = "org_id = NULLIF(current_setting('app.org_id', true), '')"
POSITION = "CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('audit_position') END"
COLUMNS_OF_DOCTOR = "id, action, resource_id, details"
LOGINS = "stepstream_api, stepstream_engine, stepstream_auth"
WRITTEN = (
    "id, org_id, user_id, action, resource_type, resource_id, details, ip_address, user_agent, request_id, success, "
    "error_code, error_message, timestamp"
)
"""What whoever appends a row says of it; where it stands is not for him to choose."""


def upgrade() -> None:
    op.execute("CREATE SEQUENCE audit_position")
    op.add_column("audit_logs", sa.Column("position", sa.BigInteger, nullable=False, server_default=sa.text(POSITION)))
    op.create_index("ix_audit_logs_org_id_position", "audit_logs", ["org_id", "position"])
    op.drop_index("ix_audit_logs_org_id_id", "audit_logs")
    op.create_table(
        "audit_seals",
        sa.Column("org_id", ID, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("upto", sa.BigInteger, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("audit_ids", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("digests", sa.LargeBinary, nullable=False),
        sa.Column("sealed_at", MOMENT, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("org_id", "seq", name=op.f("pk_audit_seals")),
        sa.ForeignKeyConstraint(["org_id"], ["organizations.id"], name=op.f("fk_audit_seals_org_id")),
    )
    op.execute("ALTER TABLE audit_seals ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE audit_seals FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY org ON audit_seals TO stepstream_api USING ({OWN_ROWS}) WITH CHECK ({OWN_ROWS})")
    op.execute("CREATE POLICY engine ON audit_seals TO stepstream_engine USING (true) WITH CHECK (true)")
    op.execute("GRANT SELECT ON audit_seals TO stepstream_api")
    op.execute("GRANT SELECT, INSERT ON audit_seals TO stepstream_engine")
    op.execute("GRANT SELECT ON audit_logs TO stepstream_engine")
    op.execute("GRANT SELECT (id) ON organizations TO stepstream_engine")
    op.execute(f"REVOKE INSERT ON audit_logs FROM {LOGINS}")
    op.execute(f"GRANT INSERT ({WRITTEN}) ON audit_logs TO {LOGINS}")
    op.execute(f"GRANT USAGE ON SEQUENCE audit_position TO {LOGINS}")
    op.execute("GRANT SELECT ON SEQUENCE audit_position TO stepstream_engine")


def downgrade() -> None:
    op.execute(f"REVOKE INSERT ON audit_logs FROM {LOGINS}")
    op.execute(f"GRANT INSERT ON audit_logs TO {LOGINS}")
    op.execute("REVOKE SELECT ON audit_logs FROM stepstream_engine")
    op.execute(f"GRANT SELECT ({COLUMNS_OF_DOCTOR}) ON audit_logs TO stepstream_engine")
    op.execute("REVOKE SELECT (id) ON organizations FROM stepstream_engine")
    op.drop_table("audit_seals")
    op.create_index("ix_audit_logs_org_id_id", "audit_logs", ["org_id", "id"])
    op.drop_column("audit_logs", "position")
    op.execute("DROP SEQUENCE audit_position")
