"""The clocks of hosts may jump and differ; what is recorded, and when runs go on, follows the database's clock."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from app import clock
from app.domain.definition import RetryPolicy
from app.domain.errors import StepError
from app.domain.steps import Done
from tests.database import Database
from tests.engine.harness import ORG, engine, save_workflow
from tests.engine.kit import Step

DAY = timedelta(days=1)
SLEEP = 1.2
"""Seconds: longer than what is waited in memory, so that the wait is recorded and the run claimed anew."""


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's clock is a day ahead, then a day behind, at each look."""
    looks = count()
    monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) + (DAY if next(looks) % 2 else -DAY))


@pytest.mark.usefixtures("jumping")
async def test_waits_are_neither_early_nor_late_and_records_stay_in_their_time(database: Database) -> None:
    """A delay, a retry, a deadline of a wait, an approval that decides itself: each takes its time."""

    async def second_time(context: Any, config: Any) -> Done:
        if context.attempt == 1:
            raise StepError("not yet")
        return Done()

    retry = RetryPolicy(max_attempts=2, initial_interval=SLEEP, jitter="none")
    before = await database.fetchval("SELECT clock_timestamp()")
    async with engine(database, types={"shaky": Step(second_time, retry=retry)}) as running:
        steps: list[dict[str, Any]] = [
            {"id": "nap", "type": "delay", "with": {"duration": f"{SLEEP}s"}},
            {"id": "shaky", "type": "shaky"},
            {"id": "wait", "type": "wait_for_signal", "with": {"signal": "x", "timeout": f"{SLEEP}s",
                                                              "on_timeout": "continue"}},
            {"id": "ask", "type": "approval", "with": {"title": "?", "deadline": f"{SLEEP}s",
                                                       "on_deadline": "approve"}},
        ]  # fmt: skip
        rows = [await running.finish(await running.submit(step)) for step in steps]
    after = await database.fetchval("SELECT clock_timestamp()")
    for row in rows:
        assert row["status"] == "COMPLETED", row["error"]
        assert SLEEP <= row["duration_seconds"] < SLEEP + 2
    times = await database.fetch("SELECT timestamp FROM execution_events")
    assert all(before <= time["timestamp"] <= after for time in times)


@pytest.mark.parametrize("off", [DAY, -DAY], ids=["ahead", "behind"])
async def test_a_moment_to_wait_for_is_one_of_the_databases_clock(
    database: Database, off: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) + off)
    async with engine(database) as running:
        moment = await database.fetchval("SELECT clock_timestamp()") + timedelta(seconds=SLEEP)
        row = await running.run({"id": "nap", "type": "delay", "with": {"until": moment.isoformat()}})
        assert moment <= row["completed_at"] < moment + timedelta(seconds=2)


@pytest.mark.parametrize(("kinds", "state"), [(("pause", "resume"), "WAITING"), (("resume", "pause"), "PAUSED")])
async def test_wishes_are_obeyed_in_the_order_of_sending_whatever_the_senders_clocks(
    database: Database, kinds: tuple[str, str], state: str
) -> None:
    """The second one comes from a host whose clock is behind, and its id says so."""
    async with engine(database) as running:
        workflow = await save_workflow(database, {"id": "w", "type": "wait_for_signal", "with": {"signal": "go"}})
        execution_id = await running.start(workflow)
        await running.until(execution_id, "WAITING")
    for kind, mail_id in zip(kinds, ("mail_01zzz", "mail_01aaa"), strict=True):
        await database.execute(
            "INSERT INTO execution_inbox (id, org_id, execution_id, kind, payload) VALUES ($1, $2, $3, $4, '{}')",
            mail_id, ORG, execution_id, kind,
        )  # fmt: skip
    async with engine(database) as running:
        await running.until_read(execution_id)
        assert (await running.until(execution_id, "PAUSED", "WAITING"))["status"] == state
        await running.send(execution_id, "resume")
        await running.send(execution_id, "signal", topic="go")
        assert (await running.finish(execution_id))["status"] == "COMPLETED"
