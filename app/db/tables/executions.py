"""What ran: executions, their steps, attempts and events, and what reaches them from outside.

Only the recorder writes here. Step, attempt and event rows carry no foreign key to their execution: the recorder writes
them in the statement that changes it, and the constraint would cost a third of the throughput.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
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
    ForeignKeyConstraint(
        ["org_id", "workflow_id", "workflow_version"],
        ["workflow_versions.org_id", "workflow_versions.workflow_id", "workflow_versions.version"],
    ),
    postgresql_with={"fillfactor": "70"},
)
Index("ix_executions_org_id_id", executions.c.org_id, executions.c.id, unique=True)
Index("ix_executions_org_id_workflow_id_id", executions.c.org_id, executions.c.workflow_id, executions.c.id)
Index(
    "ix_executions_ready",
    executions.c.priority.desc(),
    executions.c.created_at,
    postgresql_where=text("owner IS NULL AND status IN ('PENDING', 'RUNNING', 'CANCELLING')"),
)
Index(
    "ix_executions_asleep",
    executions.c.wake_at,
    postgresql_where=text("owner IS NULL AND status IN ('WAITING', 'PAUSED')"),
)
Index("ix_executions_owner", executions.c.owner, postgresql_where=text("owner IS NOT NULL"))

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
)

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
    ForeignKeyConstraint(["org_id", "execution_id"], ["executions.org_id", "executions.id"], ondelete="CASCADE"),
)
Index(
    "ix_execution_inbox_unread",
    execution_inbox.c.execution_id,
    execution_inbox.c.id,
    postgresql_where=text("applied_at IS NULL"),
)

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
