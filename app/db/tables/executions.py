"""What ran: executions, their steps, attempts and events, and what reaches them from outside.

Only the recorder writes here. Step, attempt and event rows carry no foreign key to their execution: the recorder writes
them in the statement that changes it, and the constraint would cost a third of the throughput.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.db.tables.base import ID, MOMENT, created_at, metadata

executions = Table(
    "executions",
    metadata,
    Column("id", ID, primary_key=True),
    Column("org_id", ID, ForeignKey("organizations.id"), nullable=False),
    Column("workflow_id", ID, nullable=False),
    Column("workflow_version", Integer, nullable=False),
    Column("user_id", ID, ForeignKey("users.id"), nullable=False),
    Column("status", Text, nullable=False, server_default=text("'PENDING'")),
    Column("status_reason", Text, nullable=True),
    Column("status_message", Text, nullable=True),
    Column("input_data", Text, nullable=False, server_default=text("'null'")),
    Column("output", Text, nullable=True),
    Column("error", Text, nullable=True),
    Column("error_code", Text, nullable=True),
    Column("agent_results", Text, nullable=False, server_default=text("'{}'")),
    Column("execution_graph", Text, nullable=False, server_default=text("'{}'")),
    Column("tokens_used", BigInteger, nullable=False, server_default=text("0")),
    Column("cost", Double, nullable=False, server_default=text("0")),
    Column("duration_seconds", Double, nullable=True),
    Column("progress", Integer, nullable=False, server_default=text("0")),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    Column("root_id", ID, nullable=False),
    Column("retry_of", ID, nullable=True),
    Column("ip_address", Text, nullable=True),
    Column("user_agent", Text, nullable=True),
    Column("request_id", Text, nullable=True),
    created_at(),
    Column("started_at", MOMENT, nullable=True),
    Column("completed_at", MOMENT, nullable=True),
    Column("deadline_at", MOMENT, nullable=True),
    Column("last_recorded_at", MOMENT, nullable=True),
    Column("wake_at", MOMENT, nullable=True),
    Column("owner", ID, nullable=True),
    Column("lease_epoch", Integer, nullable=False, server_default=text("0")),
    Column("write_no", Integer, nullable=False, server_default=text("0")),
    Column("next_seq", Integer, nullable=False, server_default=text("2")),
    Column("recoveries", Integer, nullable=False, server_default=text("0")),
    Column("control", Text, nullable=False, server_default=text("'{}'")),
    Column("ready", Boolean, nullable=False, server_default=text("false")),
    Column("has_slot", Boolean, nullable=False, server_default=text("false")),
    Column("forked_from", ID, nullable=True),
    Column("parent_id", ID, nullable=True),
    Column("parent_path", Text, nullable=True),
    Column("depth", Integer, nullable=False, server_default=text("0")),
    Column("expires_at", MOMENT, nullable=True),
    Column("concurrency_key", ID, nullable=True),
    Column("concurrency_limit", Integer, nullable=True),
    Column("on_limit", Text, nullable=True),
    Column("rate_key", ID, nullable=True),
    Column("rate_limit", Integer, nullable=True),
    Column("rate_seconds", Double, nullable=True),
    Column("fingerprint", Text, nullable=True),
    ForeignKeyConstraint(
        ["org_id", "workflow_id", "workflow_version"],
        ["workflow_versions.org_id", "workflow_versions.workflow_id", "workflow_versions.version"],
    ),
    postgresql_with={"fillfactor": "70"},
)
Index("ix_executions_org_id_id", executions.c.org_id, executions.c.id, unique=True)
Index("ix_executions_org_id_workflow_id_id", executions.c.org_id, executions.c.workflow_id, executions.c.id)
HAS_RARE_STATUS = "coalesce(executions.status NOT IN ('RUNNING', 'COMPLETED'), false)"
"""Who reads by the index on rare statuses says so in these words: no plan of the queue's is to take it for another."""
Index(
    "ix_executions_status",
    executions.c.org_id,
    executions.c.status,
    executions.c.id,
    postgresql_where=text(HAS_RARE_STATUS),
)
Index(
    "ix_executions_created_at",
    executions.c.created_at,
    postgresql_using="brin",
    postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
)
HOLDS_A_SLOT = "(owner IS NOT NULL AND has_slot) OR status IN ('RUNNING', 'CANCELLING')"
WANTS_A_SLOT = "ready AND status IN ('PENDING', 'WAITING', 'PAUSED')"
Index(
    "ix_executions_ready",
    executions.c.org_id,
    executions.c.user_id,
    text("coalesce(concurrency_key, '')"),
    text("coalesce(rate_key, '')"),
    text("(status = 'PENDING')"),
    executions.c.priority.desc(),
    executions.c.created_at,
    postgresql_where=text(WANTS_A_SLOT),
)
Index(
    "ix_executions_ready_keyed",
    executions.c.org_id,
    postgresql_where=text(WANTS_A_SLOT + " AND (concurrency_key IS NOT NULL OR rate_key IS NOT NULL)"),
)
Index(
    "ix_executions_on_limit",
    executions.c.org_id,
    executions.c.concurrency_key,
    executions.c.created_at,
    postgresql_where=text("ready AND status = 'PENDING' AND concurrency_key IS NOT NULL AND on_limit <> 'queue'"),
)
Index(
    "ix_executions_orphans",
    executions.c.created_at,
    postgresql_where=text("ready AND status IN ('RUNNING', 'CANCELLING')"),
)
Index(
    "ix_executions_asleep",
    executions.c.wake_at,
    postgresql_where=text("owner IS NULL AND wake_at IS NOT NULL AND NOT ready"),
)
Index("ix_executions_holders", executions.c.org_id, executions.c.user_id, postgresql_where=text(HOLDS_A_SLOT))
Index(
    "ix_executions_key_holders",
    executions.c.org_id,
    executions.c.concurrency_key,
    postgresql_where=text("concurrency_key IS NOT NULL AND (" + HOLDS_A_SLOT + ")"),
)
Index(
    "ix_executions_rates",
    executions.c.org_id,
    executions.c.rate_key,
    executions.c.started_at,
    postgresql_where=text("rate_key IS NOT NULL AND started_at IS NOT NULL"),
)
Index(
    "ix_executions_beginning",
    executions.c.org_id,
    executions.c.rate_key,
    postgresql_where=text("rate_key IS NOT NULL AND started_at IS NULL AND owner IS NOT NULL"),
)
Index(
    "ix_executions_expires_at",
    executions.c.expires_at,
    postgresql_where=text("status = 'PENDING' AND expires_at IS NOT NULL"),
)
Index("ix_executions_owner", executions.c.owner, postgresql_where=text("owner IS NOT NULL"))
Index("ix_executions_parent_id", executions.c.parent_id, postgresql_where=text("parent_id IS NOT NULL"))
Index("ix_executions_root_id", executions.c.root_id, postgresql_where=text("root_id <> id"))
Index(
    "ix_executions_fingerprint",
    executions.c.org_id,
    executions.c.fingerprint,
    executions.c.id,
    postgresql_where=text("fingerprint IS NOT NULL"),
)

execution_steps = Table(
    "execution_steps",
    metadata,
    Column("execution_id", ID, primary_key=True),
    Column("path", ID, primary_key=True),
    Column("org_id", ID, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("step_number", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("input", Text, nullable=True),
    Column("output", Text, nullable=True),
    Column("ports", ARRAY(Text), nullable=False),
    Column("error", Text, nullable=True),
    Column("error_code", Text, nullable=True),
    Column("reason", Text, nullable=True),
    Column("wake_at", MOMENT, nullable=True),
    Column("started_at", MOMENT, nullable=True),
    Column("attempt_started_at", MOMENT, nullable=True),
    Column("completed_at", MOMENT, nullable=True),
    Column("execution_time_ms", Double, nullable=True),
    Column("tokens_used", BigInteger, nullable=False),
    Column("cost", Double, nullable=False),
    Column("awaits", Text, nullable=True),
    Column("reused_from", ID, nullable=True),
    Column("iteration", Integer, nullable=False, server_default=text("0")),
    Column("items", Integer, nullable=True),
    Column("edited_by", ID, nullable=True),
    postgresql_with={"fillfactor": "70"},
)

step_attempts = Table(
    "step_attempts",
    metadata,
    Column("execution_id", ID, primary_key=True),
    Column("path", ID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("org_id", ID, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("worker_id", ID, nullable=False),
    Column("status", Text, nullable=False),
    Column("error", Text, nullable=True),
    Column("error_code", Text, nullable=True),
    Column("started_at", MOMENT, nullable=True),
    Column("completed_at", MOMENT, nullable=False),
    Column("trace", Text, nullable=True),
)

execution_labels = Table(
    "execution_labels",
    metadata,
    Column("org_id", ID, primary_key=True),
    Column("key", ID, primary_key=True),
    Column("value", ID, primary_key=True),
    Column("execution_id", ID, primary_key=True),
)
"""What `executions.labels` say, by which lists find them; a trigger writes here when an execution is accepted."""

execution_events = Table(
    "execution_events",
    metadata,
    Column("execution_id", ID, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("org_id", ID, nullable=False),
    Column("type", Text, nullable=False),
    Column("step_id", Text, nullable=True),
    Column("timestamp", MOMENT, nullable=False),
    Column("progress", Integer, nullable=False),
    Column("data", Text, nullable=False),
)

execution_inbox = Table(
    "execution_inbox",
    metadata,
    Column("id", ID, primary_key=True),
    Column("org_id", ID, nullable=False),
    Column("execution_id", ID, nullable=False),
    Column("kind", Text, nullable=False),
    Column("payload", Text, nullable=False, server_default=text("'{}'")),
    Column("user_id", ID, nullable=True),
    created_at(),
    Column("applied_at", MOMENT, nullable=True),
    Column("topic", Text, nullable=True),
    Column("dedupe_key", Text, nullable=True),
    Column("consumed_by", Text, nullable=True),
    ForeignKeyConstraint(["org_id", "execution_id"], ["executions.org_id", "executions.id"], ondelete="CASCADE"),
)
Index(
    "ix_execution_inbox_unread",
    execution_inbox.c.execution_id,
    execution_inbox.c.id,
    postgresql_where=text("applied_at IS NULL"),
)
Index(
    "ix_execution_inbox_kept",
    execution_inbox.c.execution_id,
    execution_inbox.c.id,
    postgresql_where=text("applied_at IS NOT NULL AND topic IS NOT NULL AND consumed_by IS NULL"),
)
Index(
    "ix_execution_inbox_dedupe",
    execution_inbox.c.org_id,
    execution_inbox.c.execution_id,
    execution_inbox.c.kind,
    execution_inbox.c.dedupe_key,
    unique=True,
    postgresql_where=text("dedupe_key IS NOT NULL"),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", ID, primary_key=True),
    Column("org_id", ID, nullable=False),
    Column("execution_id", ID, nullable=False),
    Column("path", Text, nullable=True),
    Column("status", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("message", Text, nullable=True),
    Column("form", Text, nullable=True),
    Column("deciders", Text, nullable=False),
    Column("quorum", Integer, nullable=False),
    created_at(),
    Column("deadline_at", MOMENT, nullable=True),
    Column("decided_at", MOMENT, nullable=True),
    ForeignKeyConstraint(["org_id", "execution_id"], ["executions.org_id", "executions.id"], ondelete="CASCADE"),
)
Index("ix_approvals_execution_id", approvals.c.execution_id)
Index("ix_approvals_org_id_id", approvals.c.org_id, approvals.c.id)
Index("ix_approvals_pending", approvals.c.org_id, approvals.c.id, postgresql_where=text("status = 'PENDING'"))

result_cache = Table(
    "result_cache",
    metadata,
    Column("org_id", ID, primary_key=True),
    Column("key", ID, primary_key=True),
    Column("output", Text, nullable=False),
    Column("ports", Text, nullable=False),
    created_at(),
    Column("expires_at", MOMENT, nullable=False),
)
Index("ix_result_cache_expires_at", result_cache.c.expires_at)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("org_id", ID, primary_key=True),
    Column("key", ID, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("execution_id", ID, nullable=False),
    created_at(),
)
Index("ix_idempotency_keys_created_at", idempotency_keys.c.created_at)

workers = Table(
    "workers",
    metadata,
    Column("id", ID, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("lease_until", MOMENT, nullable=False),
    Column("started_at", MOMENT, nullable=False, server_default=text("clock_timestamp()")),
)
