"""Who: organisations, users, memberships, and the credentials that stand for them."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Sequence,
    Table,
    Text,
    func,
    text,
)

from app.db.tables.base import ID, MOMENT, created_at, metadata

organizations = Table(
    "organizations",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", Text, nullable=False),
    created_at(),
    Column("starts_minute", DateTime(timezone=True)),
    Column("starts", Integer, nullable=False, server_default="0"),
)

users = Table(
    "users",
    metadata,
    Column("id", ID, primary_key=True),
    Column("email", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("password_hash", Text, nullable=True),
    Column("token_version", Integer, nullable=False, server_default=text("1")),
    Column("disabled", Boolean, nullable=False, server_default=text("false")),
    created_at(),
)
Index("uq_users_email", func.lower(users.c.email), unique=True)

memberships = Table(
    "memberships",
    metadata,
    Column("org_id", ID, ForeignKey("organizations.id"), primary_key=True),
    Column("user_id", ID, ForeignKey("users.id"), primary_key=True),
    Column("role", Text, nullable=False),
    created_at(),
)
Index("ix_memberships_user_id", memberships.c.user_id)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", ID, primary_key=True),
    Column("org_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("name", Text, nullable=False),
    Column("secret_hash", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=True),
    Column("expires_at", MOMENT, nullable=True),
    Column("revoked_at", MOMENT, nullable=True),
    Column("last_used_at", MOMENT, nullable=True),
    created_at(),
    ForeignKeyConstraint(["org_id", "user_id"], ["memberships.org_id", "memberships.user_id"], ondelete="CASCADE"),
)
Index("ix_api_keys_org_id_created_at", api_keys.c.org_id, api_keys.c.created_at)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("id", ID, primary_key=True),
    Column("family_id", ID, nullable=False),
    Column("org_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("secret_hash", Text, nullable=False),
    Column("token_version", Integer, nullable=False),
    Column("scopes", ARRAY(Text), nullable=True),
    Column("expires_at", MOMENT, nullable=False),
    Column("used_at", MOMENT, nullable=True),
    Column("revoked_at", MOMENT, nullable=True),
    created_at(),
    ForeignKeyConstraint(["org_id", "user_id"], ["memberships.org_id", "memberships.user_id"], ondelete="CASCADE"),
)
Index("ix_refresh_tokens_family_id", refresh_tokens.c.family_id)

stream_tickets = Table(
    "stream_tickets",
    metadata,
    Column("secret_hash", Text, primary_key=True),
    Column("org_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("kind", Text, nullable=False),
    Column("credential_id", Text, nullable=False),
    Column("credential_expires_at", MOMENT, nullable=True),
    Column("token_version", Integer, nullable=True),
    Column("permissions", ARRAY(Text), nullable=False),
    Column("execution_id", ID, nullable=True),
    Column("origin", Text, nullable=True),
    Column("expires_at", MOMENT, nullable=False),
    ForeignKeyConstraint(["org_id", "user_id"], ["memberships.org_id", "memberships.user_id"], ondelete="CASCADE"),
)

audit_logs = Table(
    "audit_logs",
    metadata,
    Column("id", ID, primary_key=True),
    Column("org_id", ID, ForeignKey("organizations.id"), nullable=False),
    Column("user_id", ID, nullable=True),
    Column("action", Text, nullable=False),
    Column("resource_type", Text, nullable=True),
    Column("resource_id", Text, nullable=True),
    Column("details", Text, nullable=False, server_default=text("'{}'")),
    Column("ip_address", Text, nullable=True),
    Column("user_agent", Text, nullable=True),
    Column("request_id", Text, nullable=True),
    Column("success", Boolean, nullable=False),
    Column("error_code", Text, nullable=True),
    Column("error_message", Text, nullable=True),
    Column("timestamp", MOMENT, nullable=False, server_default=func.clock_timestamp()),
    Column(
        "position",
        BigInteger,
        nullable=False,
        server_default=text("CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('audit_position') END"),
    ),
)
"""Its rows are never changed. A position is drawn by a transaction that has its number: the sealer relies on it."""
Index("ix_audit_logs_org_id_position", audit_logs.c.org_id, audit_logs.c.position)
Sequence("audit_position", metadata=metadata)

audit_seals = Table(
    "audit_seals",
    metadata,
    Column("org_id", ID, ForeignKey("organizations.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("upto", BigInteger, nullable=False),
    Column("size", Integer, nullable=False),
    Column("audit_ids", ARRAY(Text), nullable=False),
    Column("digests", LargeBinary, nullable=False),
    Column("sealed_at", MOMENT, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)
"""What the audit log of an organisation holds behind the seal before it and up to a position; never changed."""
