"""Values that workflows send and nobody reads."""

from sqlalchemy import ARRAY, Column, ForeignKey, Integer, LargeBinary, Table, Text, func

from app.db.tables.base import ID, MOMENT, metadata

secrets = Table(
    "secrets",
    metadata,
    Column("org_id", ID, ForeignKey("organizations.id"), primary_key=True),
    Column("name", ID, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("allowed_hosts", ARRAY(Text), nullable=False),
    Column("last4", Text, nullable=True),
    Column("ciphertext", LargeBinary, nullable=False),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("updated_at", MOMENT, nullable=False, server_default=func.clock_timestamp()),
    Column("updated_by", ID, nullable=False),
    Column("last_used_at", MOMENT, nullable=True),
)
"""The newest version of a name is its value; the one before is kept to be recognised where it is told. What is sealed
is bound to organisation, name and version, and only the engine may read it."""
