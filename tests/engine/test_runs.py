"""A run from acceptance to its end: what is recorded, in which order, and why it ended so."""

import pytest

from tests.database import Database
from tests.engine.harness import ORG, engine


@pytest.fixture
async def running(database: Database):
    await database.add_tenant(ORG)
    async with engine(database) as started:
        yield started


THREE = {
    "steps": [
        {"id": "a", "type": "log", "with": {"message": "hello ${{ input }}"}},
        {"id": "b", "type": "function", "needs": ["a"], "with": {"function": "fibonacci", "args": {"n": 10}}},
        {"id": "c", "type": "set", "needs": ["b"], "with": {"value": "${{ steps.b.output.value }}"}},
    ]
}


async def test_three_steps_complete_with_every_event_and_row(running, database):
    row = await running.run(THREE, "world")
    assert row["status"] == "COMPLETED", row["error"]
    assert row["output"] == '{"value":55}'
    assert row["progress"] == 100
    assert row["created_at"] <= row["started_at"] <= row["completed_at"]
    assert await running.events(row["id"]) == [
        "execution_queued", "execution_started", "step_started", "step_log", "step_completed", "step_started",
        "step_completed", "step_started", "step_completed", "execution_completed",
    ]  # fmt: skip
    steps = await database.fetch("SELECT path, status, attempt FROM execution_steps ORDER BY step_number")
    assert [tuple(step) for step in steps] == [("a", "COMPLETED", 1), ("b", "COMPLETED", 1), ("c", "COMPLETED", 1)]
