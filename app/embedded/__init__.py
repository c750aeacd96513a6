"""The embedded Postgres: a real server for a laptop or one machine."""

from app.embedded.cluster import EmbeddedPostgresError
from app.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]
