"""The tables. Written out, so that they stay what they were when later versions change their own."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.Text(collation="C")
MOMENT = sa.DateTime(timezone=True)
NOW = sa.text("clock_timestamp()")
ZERO = sa.text("0")

TABLES = (
    "organizations users memberships api_keys refresh_tokens stream_tickets audit_logs workflows workflow_versions "
    "executions execution_steps step_attempts execution_events execution_inbox idempotency_keys workers"
).split()


def upgrade() -> None:
    create_identity()
    create_workflows()
    create_executions()
    create_records()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def create_identity() -> None:
    op.create_table(
        "organizations",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        primary_key("organizations", "id"),
    )
    op.create_table(
        "users",
        sa.Column("id", ID, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text),
        sa.Column("token_version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        primary_key("users", "id"),
    )
    op.create_index("uq_users_email", "users", [sa.text("lower(email)")], unique=True)
    op.create_table(
        "memberships",
        sa.Column("org_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        primary_key("memberships", "org_id", "user_id"),
        foreign_key("memberships", ["org_id"], "organizations", ["id"]),
        foreign_key("memberships", ["user_id"], "users", ["id"]),
    )
    op.create_index("ix_memberships_user_id", "memberships", ["user_id"])
    op.create_table(
        "api_keys",
        sa.Column("id", ID, nullable=False),
        sa.Column("org_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.Text, nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text)),
        sa.Column("expires_at", MOMENT),
        sa.Column("revoked_at", MOMENT),
        sa.Column("last_used_at", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        primary_key("api_keys", "id"),
        of_membership("api_keys"),
    )
    op.create_index("ix_api_keys_org_id_created_at", "api_keys", ["org_id", "created_at"])
    op.create_table(
        "refresh_tokens",
        sa.Column("id", ID, nullable=False),
        sa.Column("family_id", ID, nullable=False),
        sa.Column("org_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("secret_hash", sa.Text, nullable=False),
        sa.Column("token_version", sa.Integer, nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text)),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("used_at", MOMENT),
        sa.Column("revoked_at", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        primary_key("refresh_tokens", "id"),
        of_membership("refresh_tokens"),
    )
    op.create_index("ix_refresh_tokens_family_id", "refresh_tokens", ["family_id"])
    op.create_table(
        "stream_tickets",
        sa.Column("secret_hash", sa.Text, nullable=False),
        sa.Column("org_id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("credential_id", sa.Text, nullable=False),
        sa.Column("credential_expires_at", MOMENT),
        sa.Column("token_version", sa.Integer),
        sa.Column("permissions", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("execution_id", ID),
        sa.Column("origin", sa.Text),
        sa.Column("expires_at", MOMENT, nullable=False),
        primary_key("stream_tickets", "secret_hash"),
        of_membership("stream_tickets"),
    )
    op.create_table(
        "audit_logs",
        sa.Column("id", ID, nullable=False),
        sa.Column("org_id", ID, nullable=False),
        sa.Column("user_id", ID),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("resource_type", sa.Text),
        sa.Column("resource_id", sa.Text),
        sa.Column("details", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("ip_address", sa.Text),
        sa.Column("user_agent", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("success", sa.Boolean, nullable=False),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("timestamp", MOMENT, nullable=False, server_default=NOW),
        primary_key("audit_logs", "id"),
        foreign_key("audit_logs", ["org_id"], "organizations", ["id"]),
    )
    op.create_index("ix_audit_logs_org_id_id", "audit_logs", ["org_id", "id"])


def create_workflows() -> None:
    op.create_table(
        "workflows",
        sa.Column("org_id", ID, nullable=False),
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", sa.Text),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("latest_version", sa.Integer, nullable=False),
        sa.Column("published_version", sa.Integer),
        sa.Column("execution_count", sa.BigInteger, nullable=False, server_default=ZERO),
        sa.Column("success_count", sa.BigInteger, nullable=False, server_default=ZERO),
        sa.Column("failure_count", sa.BigInteger, nullable=False, server_default=ZERO),
        sa.Column("cancelled_count", sa.BigInteger, nullable=False, server_default=ZERO),
        sa.Column("last_executed_at", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("archived_at", MOMENT),
        primary_key("workflows", "org_id", "id"),
        foreign_key("workflows", ["org_id"], "organizations", ["id"]),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_index("ix_workflows_org_id_created_at", "workflows", ["org_id", "created_at"])
    op.create_table(
        "workflow_versions",
        sa.Column("org_id", ID, nullable=False),
        sa.Column("workflow_id", ID, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("problems", sa.Text, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("created_by", ID),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        primary_key("workflow_versions", "org_id", "workflow_id", "version"),
        foreign_key("workflow_versions", ["org_id", "workflow_id"], "workflows", ["org_id", "id"], ondelete="CASCADE"),
    )


def create_executions() -> None:
    op.create_table(
        "executions",
        sa.Column("id", ID, nullable=False),
        sa.Column("org_id", ID, nullable=False),
        sa.Column("workflow_id", ID, nullable=False),
        sa.Column("workflow_version", sa.Integer, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default=sa.text("'PENDING'")),
        sa.Column("status_reason", sa.Text),
        sa.Column("status_message", sa.Text),
        sa.Column("input_data", sa.Text, nullable=False, server_default=sa.text("'null'")),
        sa.Column("output", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("agent_results", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("execution_graph", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("tokens_used", sa.BigInteger, nullable=False, server_default=ZERO),
        sa.Column("cost", sa.Double, nullable=False, server_default=ZERO),
        sa.Column("duration_seconds", sa.Double),
        sa.Column("progress", sa.Integer, nullable=False, server_default=ZERO),
        sa.Column("priority", sa.Integer, nullable=False, server_default=ZERO),
        sa.Column("labels", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("root_id", ID, nullable=False),
        sa.Column("retry_of", ID),
        sa.Column("ip_address", sa.Text),
        sa.Column("user_agent", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("started_at", MOMENT),
        sa.Column("completed_at", MOMENT),
        sa.Column("deadline_at", MOMENT),
        sa.Column("last_recorded_at", MOMENT),
        sa.Column("wake_at", MOMENT),
        sa.Column("owner", ID),
        sa.Column("lease_epoch", sa.Integer, nullable=False, server_default=ZERO),
        sa.Column("write_no", sa.Integer, nullable=False, server_default=ZERO),
        sa.Column("next_seq", sa.Integer, nullable=False, server_default=sa.text("2")),
        sa.Column("recoveries", sa.Integer, nullable=False, server_default=ZERO),
        primary_key("executions", "id"),
        foreign_key("executions", ["org_id"], "organizations", ["id"]),
        foreign_key("executions", ["user_id"], "users", ["id"]),
        foreign_key(
            "executions",
            ["org_id", "workflow_id", "workflow_version"],
            "workflow_versions",
            ["org_id", "workflow_id", "version"],
        ),
        check(
            "executions",
            "status",
            "status IN ('PENDING', 'RUNNING', 'WAITING', 'PAUSED', 'CANCELLING', 'COMPLETED', 'FAILED', 'CANCELLED')",
        ),
        check("executions", "progress", "progress BETWEEN 0 AND 100"),
        check("executions", "times", "started_at >= created_at AND completed_at >= COALESCE(started_at, created_at)"),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index("ix_executions_org_id_id", "executions", ["org_id", "id"], unique=True)
    op.create_index("ix_executions_org_id_workflow_id_id", "executions", ["org_id", "workflow_id", "id"])
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
    op.create_index("ix_executions_owner", "executions", ["owner"], postgresql_where=sa.text("owner IS NOT NULL"))


def create_records() -> None:
    op.create_table(
        "execution_steps",
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("path", ID, nullable=False),
        sa.Column("org_id", ID, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("step_number", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("input", sa.Text),
        sa.Column("output", sa.Text),
        sa.Column("ports", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("wake_at", MOMENT),
        sa.Column("started_at", MOMENT),
        sa.Column("attempt_started_at", MOMENT),
        sa.Column("completed_at", MOMENT),
        sa.Column("execution_time_ms", sa.Double),
        sa.Column("tokens_used", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
        primary_key("execution_steps", "execution_id", "path"),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_table(
        "step_attempts",
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("path", ID, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("org_id", ID, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("worker_id", ID, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("started_at", MOMENT),
        sa.Column("completed_at", MOMENT, nullable=False),
        primary_key("step_attempts", "execution_id", "path", "attempt"),
    )
    op.create_table(
        "execution_events",
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("org_id", ID, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("step_id", sa.Text),
        sa.Column("timestamp", MOMENT, nullable=False),
        sa.Column("progress", sa.Integer, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        primary_key("execution_events", "execution_id", "seq"),
    )
    op.create_table(
        "execution_inbox",
        sa.Column("id", ID, nullable=False),
        sa.Column("org_id", ID, nullable=False),
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("user_id", ID),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("applied_at", MOMENT),
        primary_key("execution_inbox", "id"),
        foreign_key("execution_inbox", ["org_id", "execution_id"], "executions", ["org_id", "id"], ondelete="CASCADE"),
    )
    op.create_index(
        "ix_execution_inbox_unread",
        "execution_inbox",
        ["execution_id", "id"],
        postgresql_where=sa.text("applied_at IS NULL"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("org_id", ID, nullable=False),
        sa.Column("key", ID, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        primary_key("idempotency_keys", "org_id", "key"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "workers",
        sa.Column("id", ID, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("incarnation", sa.Text, nullable=False),
        sa.Column("lease_until", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=False, server_default=NOW),
        primary_key("workers", "id"),
    )


def primary_key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def foreign_key(
    table: str, columns: list[str], to: str, keys: list[str], ondelete: str | None = None
) -> sa.ForeignKeyConstraint:
    targets = [f"{to}.{key}" for key in keys]
    return sa.ForeignKeyConstraint(columns, targets, name=op.f(f"fk_{table}_{'_'.join(columns)}"), ondelete=ondelete)


def of_membership(table: str) -> sa.ForeignKeyConstraint:
    return foreign_key(table, ["org_id", "user_id"], "memberships", ["org_id", "user_id"], ondelete="CASCADE")


def check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))
