"""What people and other executions may do to a run, and what it waits for.

`executions.ready` is the queue: set exactly while an execution has no owner and wants one in order to run. An execution
that waits for a time alone has `wake_at`; one that waits for mail has neither.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.Text(collation="C")
MOMENT = sa.DateTime(timezone=True)
NOW = sa.text("clock_timestamp()")
ZERO = sa.text("0")
OWN_ROWS = "org_id = NULLIF(current_setting('app.org_id', true), '')"
NEW_TABLES = ("approvals", "result_cache")
HOLDS_A_SLOT = "(owner IS NOT NULL AND has_slot) OR status IN ('RUNNING', 'CANCELLING')"
WANTS_A_SLOT = "ready AND status IN ('PENDING', 'WAITING', 'PAUSED')"



def columns() -> dict[str, list[sa.Column]]:
    """The new columns by table."""
    return {
        "executions": [
            sa.Column("control", sa.Text, nullable=False, server_default=sa.text("'{}'")),
            sa.Column("ready", sa.Boolean, nullable=False, server_default=sa.text("false")),
            sa.Column("has_slot", sa.Boolean, nullable=False, server_default=sa.text("false")),
            sa.Column("forked_from", ID),
            sa.Column("parent_id", ID),
            sa.Column("parent_path", sa.Text),
            sa.Column("depth", sa.Integer, nullable=False, server_default=ZERO),
            sa.Column("expires_at", MOMENT),
            sa.Column("concurrency_key", ID),
            sa.Column("concurrency_limit", sa.Integer),
            sa.Column("on_limit", sa.Text),
            sa.Column("rate_key", ID),
            sa.Column("rate_limit", sa.Integer),
            sa.Column("rate_seconds", sa.Double),
            sa.Column("fingerprint", sa.Text),
        ],
        "execution_steps": [
            sa.Column("awaits", sa.Text),
            sa.Column("reused_from", ID),
            sa.Column("iteration", sa.Integer, nullable=False, server_default=ZERO),
            sa.Column("items", sa.Integer),
            sa.Column("edited_by", ID),
        ],
        "step_attempts": [sa.Column("trace", sa.Text)],
        "execution_inbox": [
            sa.Column("topic", sa.Text),
            sa.Column("dedupe_key", sa.Text),
            sa.Column("consumed_by", sa.Text),
        ],
    }


INDEXES = (
    (
        "ix_executions_ready",
        "executions",
        [
            "org_id",
            "user_id",
            sa.text("coalesce(concurrency_key, '')"),
            sa.text("coalesce(rate_key, '')"),
            sa.text("(status = 'PENDING')"),
            sa.text("priority DESC"),
            "created_at",
        ],
        WANTS_A_SLOT,
    ),
    (
        "ix_executions_ready_keyed",
        "executions",
        ["org_id"],
        f"{WANTS_A_SLOT} AND (concurrency_key IS NOT NULL OR rate_key IS NOT NULL)",
    ),
    (
        "ix_executions_on_limit",
        "executions",
        ["org_id", "concurrency_key", "created_at"],
        "ready AND status = 'PENDING' AND concurrency_key IS NOT NULL AND on_limit <> 'queue'",
    ),
    ("ix_executions_orphans", "executions", ["created_at"], "ready AND status IN ('RUNNING', 'CANCELLING')"),
    ("ix_executions_asleep", "executions", ["wake_at"], "owner IS NULL AND wake_at IS NOT NULL AND NOT ready"),
    ("ix_executions_holders", "executions", ["org_id", "user_id"], HOLDS_A_SLOT),
    (
        "ix_executions_key_holders",
        "executions",
        ["org_id", "concurrency_key"],
        f"concurrency_key IS NOT NULL AND ({HOLDS_A_SLOT})",
    ),
    (
        "ix_executions_rates",
        "executions",
        ["org_id", "rate_key", "started_at"],
        "rate_key IS NOT NULL AND started_at IS NOT NULL",
    ),
    (
        "ix_executions_beginning",
        "executions",
        ["org_id", "rate_key"],
        "rate_key IS NOT NULL AND started_at IS NULL AND owner IS NOT NULL",
    ),
    ("ix_executions_expires_at", "executions", ["expires_at"], "status = 'PENDING' AND expires_at IS NOT NULL"),
    ("ix_executions_parent_id", "executions", ["parent_id"], "parent_id IS NOT NULL"),
    ("ix_executions_root_id", "executions", ["root_id"], "root_id <> id"),
    ("ix_executions_fingerprint", "executions", ["org_id", "fingerprint", "id"], "fingerprint IS NOT NULL"),
    ("ix_execution_inbox_kept", "execution_inbox", ["execution_id", "id"], "applied_at IS NOT NULL AND topic IS NOT NULL AND consumed_by IS NULL"),
    ("ix_approvals_pending", "approvals", ["org_id", "id"], "status = 'PENDING'"),
)

GRANTS = {
    "stepstream_api": {"SELECT": "approvals"},
    "stepstream_engine": {
        "INSERT, UPDATE (consumed_by)": "execution_inbox",
        "SELECT, INSERT, UPDATE": "approvals",
        "SELECT, INSERT, UPDATE, DELETE": "result_cache",
    },
}

REFUSE_CHANGE_OF_SETTLED_STEP = """
CREATE OR REPLACE FUNCTION refuse_change_of_settled_step() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.status = 'COMPLETED' AND NEW.status = 'COMPLETED' AND NEW.edited_by IS NOT NULL
     AND NEW.output IS DISTINCT FROM OLD.output THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'The step % of the execution % is %: what settled is not written again.',
    OLD.path, OLD.execution_id, OLD.status USING ERRCODE = 'SS002';
END $$
"""
"""The one exception: a person edits the output of a completed step, and is named."""

REFUSE_EVERY_CHANGE_OF_SETTLED_STEP = """
CREATE OR REPLACE FUNCTION refuse_change_of_settled_step() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'The step % of the execution % is %: what settled is not written again.',
    OLD.path, OLD.execution_id, OLD.status USING ERRCODE = 'SS002';
END $$
"""


def upgrade() -> None:
    for table, added in columns().items():
        for column in added:
            op.add_column(table, column)
    create_tables()
    op.drop_index("ix_executions_ready", "executions")
    op.drop_index("ix_executions_asleep", "executions")
    op.execute(
        "UPDATE executions SET ready = true WHERE owner IS NULL AND status IN ('PENDING', 'RUNNING', 'CANCELLING')"
    )
    op.execute("UPDATE executions SET has_slot = true WHERE owner IS NOT NULL")
    for name, table, indexed, where in INDEXES:
        op.create_index(name, table, indexed, postgresql_where=sa.text(where))
    op.create_index(
        "ix_execution_inbox_dedupe",
        "execution_inbox",
        ["org_id", "execution_id", "kind", "dedupe_key"],
        unique=True,
        postgresql_where=sa.text("dedupe_key IS NOT NULL"),
    )
    check = "NOT ready OR (owner IS NULL AND status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED'))"
    op.create_check_constraint(op.f("ck_executions_ready"), "executions", check)
    op.execute(REFUSE_CHANGE_OF_SETTLED_STEP)
    for table in NEW_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY org ON {table} TO stepstream_api USING ({OWN_ROWS}) WITH CHECK ({OWN_ROWS})")
        op.execute(f"CREATE POLICY engine ON {table} TO stepstream_engine USING (true) WITH CHECK (true)")
    for role, grants in GRANTS.items():
        for verbs, tables in grants.items():
            op.execute(f"GRANT {verbs} ON {tables} TO {role}")


def create_tables() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", ID, nullable=False),
        sa.Column("org_id", ID, nullable=False),
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("path", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("form", sa.Text),
        sa.Column("deciders", sa.Text, nullable=False),
        sa.Column("quorum", sa.Integer, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("deadline_at", MOMENT),
        sa.Column("decided_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approvals")),
        sa.ForeignKeyConstraint(
            ["org_id", "execution_id"],
            ["executions.org_id", "executions.id"],
            name=op.f("fk_approvals_org_id_execution_id"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "status IN ('PENDING', 'APPROVED', 'REJECTED', 'EXPIRED', 'CANCELLED')", name=op.f("ck_approvals_status")
        ),
    )
    op.create_index("ix_approvals_execution_id", "approvals", ["execution_id"])
    op.create_table(
        "result_cache",
        sa.Column("org_id", ID, nullable=False),
        sa.Column("key", ID, nullable=False),
        sa.Column("output", sa.Text, nullable=False),
        sa.Column("ports", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("org_id", "key", name=op.f("pk_result_cache")),
    )
    op.create_index("ix_result_cache_expires_at", "result_cache", ["expires_at"])


def downgrade() -> None:
    op.execute("REVOKE INSERT, UPDATE (consumed_by) ON execution_inbox FROM stepstream_engine")
    op.execute(REFUSE_EVERY_CHANGE_OF_SETTLED_STEP)
    op.drop_table("approvals")
    op.drop_table("result_cache")
    op.drop_constraint(op.f("ck_executions_ready"), "executions")
    op.drop_index("ix_executions_root_id", "executions")
    for table, added in columns().items():
        for column in added:
            op.drop_column(table, column.name)
    op.create_index(
        "ix_executions_ready",
        "executions",
        [sa.text("priority DESC"), "created_at"],
        postgresql_where=sa.text("owner IS NULL AND status IN ('PENDING', 'RUNNING', 'CANCELLING')"),
    )
    op.create_index(
        "ix_executions_asleep",
        "executions",
        ["wake_at"],
        postgresql_where=sa.text("owner IS NULL AND status IN ('WAITING', 'PAUSED')"),
    )
