"""Secrets: values that workflows send and nobody reads."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
additive = True

ID = sa.Text(collation="C")
OWN_ROWS = "org_id = NULLIF(current_setting('app.org_id', true), '')"
SHOWN = "org_id, name, version, allowed_hosts, last4, updated_at, updated_by, last_used_at"


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("org_id", ID, nullable=False),
        sa.Column("name", ID, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("allowed_hosts", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("last4", sa.Text),
        sa.Column("ciphertext", sa.LargeBinary, nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.Column("updated_by", ID, nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("org_id", "name", "version", name=op.f("pk_secrets")),
        sa.ForeignKeyConstraint(["org_id"], ["organizations.id"], name=op.f("fk_secrets_org_id")),
    )
    op.execute("ALTER TABLE secrets ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE secrets FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY org ON secrets TO stepstream_api USING ({OWN_ROWS}) WITH CHECK ({OWN_ROWS})")
    op.execute("CREATE POLICY engine ON secrets TO stepstream_engine USING (true) WITH CHECK (true)")
    op.execute(f"GRANT SELECT ({SHOWN}), INSERT, DELETE ON secrets TO stepstream_api")
    op.execute("GRANT SELECT, UPDATE (wrapped_key, key_id, last_used_at) ON secrets TO stepstream_engine")


def downgrade() -> None:
    op.drop_table("secrets")
