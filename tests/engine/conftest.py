"""A database with a tenant, and the promise that it is sound when the test is over."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from tests.database import Database
from tests.engine.harness import ORG, Engine, engine
from tests.engine.invariants import check
from tests.engine.kit import Sink


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """Tracebacks drawn for people take longer than these tests."""
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
    yield
    structlog.reset_defaults()


@pytest.fixture
async def database(database: Database) -> AsyncIterator[Database]:
    """One with a tenant; checked at the end."""
    await database.add_tenant(ORG)
    yield database
    await check(database)


@pytest.fixture
async def running(database: Database) -> AsyncIterator[Engine]:
    """An engine that knows the shipped step types."""
    async with engine(database) as started:
        yield started


@pytest.fixture
def sink(tmp_path: Path) -> Sink:
    return Sink(tmp_path / "sink.jsonl")
