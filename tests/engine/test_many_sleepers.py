"""What 100,000 executions that wait cost: opt in with `-m soak`, and `-s` to see the figures."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app import clock
from app.db.claim_sql import LOOK
from app.db.urls import ENGINE
from tests.database import Database, Server
from tests.engine.harness import ORG, engine, eventually, save_workflow
from tests.engine.kit import Wire

COUNT = 100_000
LOOKS = 100
WAIT = {"id": "w", "type": "delay", "with": {"duration": "1h"}}

COPY = """
WITH made AS (
  SELECT 'exec_' || lpad(n::text, 26, '0') AS id FROM generate_series(1, $2) n
), execution AS (
  INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, status, status_reason, progress,
                          started_at, last_recorded_at, created_at, wake_at, lease_epoch, write_no, next_seq,
                          execution_graph)
  SELECT m.id, m.id, org_id, workflow_id, workflow_version, user_id, status, status_reason, progress, started_at,
         last_recorded_at, created_at, now() + interval '1 day', lease_epoch, write_no, next_seq, execution_graph
    FROM executions e, made m WHERE e.id = $1
), step AS (
  INSERT INTO execution_steps (execution_id, path, org_id, epoch, step_number, name, type, status, attempt, failures,
                               input, output, ports, reason, wake_at, started_at, attempt_started_at, tokens_used, cost)
  SELECT m.id, path, org_id, epoch, step_number, name, type, status, attempt, failures, input, output, ports, reason,
         now() + interval '1 day', started_at, attempt_started_at, tokens_used, cost
    FROM execution_steps s, made m WHERE s.execution_id = $1
), event AS (
  INSERT INTO execution_events (execution_id, seq, org_id, type, step_id, timestamp, progress, data)
  SELECT m.id, seq, org_id, type, step_id, timestamp, progress, data
    FROM execution_events v, made m WHERE v.execution_id = $1
)
INSERT INTO audit_logs (id, org_id, action, resource_id, success)
SELECT 'audit_' || id, $3, 'execution.created', id, true FROM made"""

LOAD = """
SELECT xact_commit + xact_rollback AS transactions, tup_returned + tup_fetched AS rows, blks_read, blks_hit
  FROM pg_stat_database WHERE datname = current_database()"""


def memory() -> float:
    """Resident memory of this process in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def load(database: Database) -> dict[str, int]:
    await database.execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
    return dict((await database.fetch(LOAD))[0])


@pytest.mark.soak
@pytest.mark.timeout(500)
async def test_a_hundred_thousand_sleepers(server: Server, template: str) -> None:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(server.database(template))
        wire = Wire(database.role_url(ENGINE))
        running = await stack.enter_async_context(engine(database, wire=wire.connect))
        await database.add_tenant(ORG)
        workflow = await save_workflow(database, WAIT)
        pattern = await running.start(workflow)
        await running.until(pattern, "WAITING")
        alone = memory()
        await database.execute(COPY, pattern, COUNT, ORG)
        await database.execute("ANALYZE executions, execution_steps, execution_events")
        before, began = await load(database), clock.monotonic()
        await wire.lose(LOOK, after=False, skip=LOOKS).hit.wait()
        after, seconds = await load(database), clock.monotonic() - began
        rates = {name: round((after[name] - before[name]) / seconds, 1) for name in before}
        print(f"\n{COUNT} waiting, per second while idle: {rates}; scans every 0.1 s")
        print(f"memory of the process: {alone:.1f} MiB with one waiting, {memory():.1f} MiB with all")
        delays = [await wake_up_delay(database, number) for number in range(1, COUNT, COUNT // 20)]
        print(f"from due to going on: median {sorted(delays)[len(delays) // 2]:.3f} s, worst {max(delays):.3f} s")
        assert rates["transactions"] < 200
        assert max(delays) < 5


async def wake_up_delay(database: Database, number: int) -> float:
    """Let the time of one come that no process has in mind; seconds until its step is recorded as done."""
    execution_id = f"exec_{number:026}"
    await database.execute("UPDATE execution_steps SET wake_at = now() WHERE execution_id = $1", execution_id)
    due = await database.fetchval("UPDATE executions SET wake_at = now() WHERE id = $1 RETURNING wake_at", execution_id)

    async def done() -> float | None:
        completed = await database.fetchval("SELECT completed_at FROM executions WHERE id = $1", execution_id)
        return None if completed is None else max((completed - due).total_seconds(), 1e-6)

    return float(await eventually(done, 30))
