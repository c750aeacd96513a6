"""What must be true in the end, by the client's journal, the outside world, and the tables."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from app.db.audit_chain import verify
from app.db.urls import ENGINE
from app.domain.audit_chain import BEGINNING
from tests.chaos.journal import Journal
from tests.chaos.sink import Sink
from tests.database import Database
from tests.engine.invariants import check

SEALING_SECONDS = 30.0
EXPECTED_ERRORS = {"lease_lost"}


async def check_all(tables: Database, journal: Journal, sink: Sink) -> None:
    """Assert everything; all executions must have ended."""
    await check_accepted(tables, journal)
    await check_effects(tables, sink)
    await check_limit(tables)
    await check(tables)
    await check_audit_chain(tables)


def check_log(lines: Iterable[str]) -> None:
    """A process speaks of errors only where there is one: what breaks around it is no error of its own."""
    told = [json.loads(line) for line in lines if line.startswith("{")]
    errors = [line for line in told if line.get("level") == "error" and "scope" not in line]
    assert [error for error in errors if error["event"] not in EXPECTED_ERRORS] == []


async def check_audit_chain(tables: Database) -> None:
    """Soon all is sealed, whoever sealed and died, and each chain is whole."""
    async with asyncio.timeout(SEALING_SECONDS), tables.connected(ENGINE) as connection:
        for row in await tables.fetch("SELECT id FROM organizations"):
            found = await verify(connection.fetch, row["id"])
            while found.unsealed or not found.complete:
                assert found.broken is None, (row["id"], found)
                found = await verify(connection.fetch, row["id"], BEGINNING if found.complete else found.head)
            assert found.broken is None, (row["id"], found)


async def check_accepted(tables: Database, journal: Journal) -> None:
    """What was answered with an id is there; a key stands for one execution; all have ended."""
    named: defaultdict[str, set[str]] = defaultdict(set)
    for line in journal.lines:
        if line["outcome"] == "ok" and line["key"] is not None:
            named[line["key"]].add(line["id"])
    assert all(len(ids) == 1 for ids in named.values()), named
    rows = await tables.fetch("SELECT id, status, completed_at FROM executions")
    assert {execution_id for ids in named.values() for execution_id in ids} <= {row["id"] for row in rows}
    assert [row["id"] for row in rows if row["completed_at"] is None] == []
    kept = await tables.fetch("SELECT key, execution_id FROM idempotency_keys")
    assert named.items() <= {row["key"]: {row["execution_id"]} for row in kept}.items()


async def check_effects(tables: Database, sink: Sink) -> None:
    """Every effect was of a recorded attempt, what completed had its effect, and all of a step have one key."""
    rows = await tables.fetch(
        "SELECT execution_id, path, status, attempt FROM execution_steps "
        "WHERE type = 'http.request' AND reused_from IS NULL AND items IS NULL"
    )
    steps = {(row["execution_id"], _called(row["path"])): row for row in rows}
    for call, times in sink.effects.items():
        assert call in steps, f"{call} had an effect and no record"
        assert times <= steps[call]["attempt"], (call, times, dict(steps[call]))
    for call, row in steps.items():
        assert row["status"] != "COMPLETED" or sink.effects[call] >= 1, f"{call} completed without an effect"
    assert {call: keys for call, keys in sink.keys.items() if len(keys) > 1} == {}


async def check_limit(tables: Database) -> None:
    """Never more than may run at once of what has a key with a limit."""
    too_many = await tables.fetch(
        "SELECT a.id, count(*) FROM executions a JOIN executions b "
        "  ON b.concurrency_key = a.concurrency_key AND b.started_at <= a.started_at AND b.completed_at > a.started_at "
        "GROUP BY a.id HAVING count(*) > max(a.concurrency_limit)"
    )
    assert too_many == []


def _called(path: str) -> str:
    """How the outside world calls a step or an item."""
    return path.replace("[", "/").replace("]", "")


async def unfinished(tables: Database) -> list[dict[str, Any]]:
    """Executions that have not ended, for who wonders why."""
    rows = await tables.fetch(
        "SELECT id, workflow_id, status, status_reason, owner, ready, has_slot, wake_at, lease_epoch, recoveries, "
        "(SELECT json_agg(json_build_object('path', s.path, 'status', s.status, 'attempt', s.attempt)) "
        "   FROM execution_steps s WHERE s.execution_id = e.id) AS steps, "
        "(SELECT count(*) FROM execution_inbox i WHERE i.execution_id = e.id AND i.applied_at IS NULL) AS mail "
        "FROM executions e WHERE completed_at IS NULL ORDER BY id"
    )
    return [dict(row) for row in rows]
