"""The database and the engines of the engine's tests."""

from tests.engine.conftest import database, plain_logs, running, sink

__all__ = ["database", "plain_logs", "running", "sink"]
