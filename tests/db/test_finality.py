"""What is final stays as it was recorded: the database itself refuses to change it."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from app import clock
from app.db.engines import DriverConnection
from app.db.errors import translated
from app.db.urls import ENGINE
from app.domain.errors import Conflict
from app.domain.states import SETTLED, TERMINAL, ExecutionStatus, StepStatus
from tests.database import Database
from tests.db.rows import fill

RUNNING = sorted(set(ExecutionStatus) - TERMINAL)
UNSETTLED = sorted(set(StepStatus) - SETTLED)


@pytest.fixture
async def recorder(database: Database) -> AsyncIterator[DriverConnection]:
    """A connection of the engine role; there is one execution with one step."""
    await fill(database, "org_a")
    async with database.connected(ENGINE) as connection:
        yield connection


@pytest.mark.parametrize("outcome", sorted(TERMINAL))
async def test_an_outcome_never_changes(recorder: DriverConnection, outcome: str) -> None:
    await recorder.execute("UPDATE executions SET status = $1", outcome)
    for other in set(ExecutionStatus) - {outcome}:
        with pytest.raises(asyncpg.PostgresError, match="which is final") as caught:
            await recorder.execute("UPDATE executions SET status = $1", str(other))
        assert caught.value.sqlstate == "SS001"
    # Writing the same outcome again is the recorder's answer to a lost acknowledgement.
    assert await recorder.execute("UPDATE executions SET status = $1, owner = NULL", outcome) == "UPDATE 1"


@pytest.mark.parametrize("status", RUNNING)
async def test_what_runs_may_change(recorder: DriverConnection, status: str) -> None:
    await recorder.execute("UPDATE executions SET status = $1", status)
    assert await recorder.execute("UPDATE executions SET status = 'FAILED'") == "UPDATE 1"


@pytest.mark.parametrize("status", sorted(SETTLED))
async def test_a_settled_step_is_never_written_again(recorder: DriverConnection, status: str) -> None:
    await recorder.execute("UPDATE execution_steps SET status = $1", status)
    for change in ("status = 'RUNNING'", "output = '1'", "status = status"):
        with pytest.raises(asyncpg.PostgresError, match="what settled is not written again") as caught:
            await recorder.execute(f"UPDATE execution_steps SET {change}")
        assert caught.value.sqlstate == "SS002"


@pytest.mark.parametrize("status", UNSETTLED)
async def test_an_unsettled_step_may_change(recorder: DriverConnection, status: str) -> None:
    await recorder.execute("UPDATE execution_steps SET status = $1", status)
    assert await recorder.execute("UPDATE execution_steps SET status = 'COMPLETED', output = '1'") == "UPDATE 1"


async def test_the_refusal_is_a_conflict_that_says_which(recorder: DriverConnection) -> None:
    await recorder.execute("UPDATE executions SET status = 'COMPLETED'")
    with pytest.raises(Conflict, match=r"exec_org_a is COMPLETED, which is final.*RUNNING"), translated():
        await recorder.execute("UPDATE executions SET status = 'RUNNING'")


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'DONE'", "ck_executions_status"),
        ("progress = 101", "ck_executions_progress"),
        ("progress = -1", "ck_executions_progress"),
        ("started_at = created_at - interval '1 microsecond'", "ck_executions_times"),
        ("completed_at = created_at - interval '1 microsecond'", "ck_executions_times"),
        ("started_at = now() + interval '2 s', completed_at = now() + interval '1 s'", "ck_executions_times"),
    ],
)
async def test_an_impossible_execution_is_refused(recorder: DriverConnection, change: str, constraint: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await recorder.execute(f"UPDATE executions SET {change}")
    assert caught.value.constraint_name == constraint


async def test_every_status_and_every_possible_order_of_times_is_accepted(recorder: DriverConnection) -> None:
    created = await recorder.fetchval("SELECT created_at FROM executions")
    for started, completed in ((0, None), (None, 0), (0, 0), (1, 1), (1, 2), (None, None)):
        times = [None if each is None else created + timedelta(seconds=each) for each in (started, completed)]
        await recorder.execute("UPDATE executions SET started_at = $1, completed_at = $2", *times)
    for status in [*RUNNING, "CANCELLED"]:
        await recorder.execute("UPDATE executions SET status = $1", str(status))
    assert created <= clock.now() + timedelta(minutes=1)
