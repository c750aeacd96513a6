"""What can be run: workflows, their counters, and their immutable numbered versions."""

from sqlalchemy import BigInteger, Column, ForeignKey, ForeignKeyConstraint, Index, Integer, Table, Text, func, text

from app.db.tables.base import ID, MOMENT, created_at, metadata

workflows = Table(
    "workflows",
    metadata,
    Column("org_id", ID, ForeignKey("organizations.id"), primary_key=True),
    Column("id", ID, primary_key=True),
    Column("project_id", Text, nullable=True),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=True),
    Column("latest_version", Integer, nullable=False),
    Column("published_version", Integer, nullable=True),
    Column("execution_count", BigInteger, nullable=False, server_default=text("0")),
    Column("success_count", BigInteger, nullable=False, server_default=text("0")),
    Column("failure_count", BigInteger, nullable=False, server_default=text("0")),
    Column("cancelled_count", BigInteger, nullable=False, server_default=text("0")),
    Column("last_executed_at", MOMENT, nullable=True),
    created_at(),
    Column("updated_at", MOMENT, nullable=False, server_default=func.clock_timestamp()),
    Column("archived_at", MOMENT, nullable=True),
    postgresql_with={"fillfactor": "50"},
)
Index("ix_workflows_org_id_created_at", workflows.c.org_id, workflows.c.created_at)

workflow_versions = Table(
    "workflow_versions",
    metadata,
    Column("org_id", ID, primary_key=True),
    Column("workflow_id", ID, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("definition", Text, nullable=False),
    Column("problems", Text, nullable=False, server_default=text("'[]'")),
    Column("created_by", ID, nullable=True),
    created_at(),
    ForeignKeyConstraint(["org_id", "workflow_id"], ["workflows.org_id", "workflows.id"], ondelete="CASCADE"),
)
