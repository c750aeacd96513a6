"""What people read often is found by index, however much has been recorded beside it."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db import event_log, execution_reader
from app.db.engines import api_engine
from app.db.queries import approvals, comparison, control, executions, failures, insight
from app.db.queries.approvals import DecidableBy
from app.db.queries.executions import ExecutionFilter
from app.db.queries.failures import FailureFilter
from app.db.tenancy import Tenancy, bound_read
from app.db.urls import API
from app.domain.mail import MailKind
from tests.database import Database

ORG, WORKFLOW, USER, RUN = "org_a", "wf_org_a", "user_org_a", "exec_00000500"
APPROVAL = {"execution_id": RUN, "id": f"appr_{RUN}"}
OLDEST = datetime(2026, 1, 1, tzinfo=UTC)
FAR_BEHIND = 100
"""Rows that may be read in vain."""

GROW = """
INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, status, fingerprint, retry_of,
                        labels, created_at)
  SELECT id, CASE WHEN g % 10 = 1 THEN before ELSE id END, 'org_a', 'wf_org_a', 1, 'user_org_a',
         CASE WHEN g % 50 = 0 THEN 'FAILED' ELSE 'COMPLETED' END, CASE WHEN g % 50 = 0 THEN 'f' || g END,
         CASE WHEN g % 10 = 1 THEN before END, jsonb_build_object('team', 'sales', 'customer', 'c' || g % 1000),
         timestamptz '2026-01-01 00:00Z' + g * interval '1 minute'
    FROM (SELECT g, 'exec_' || lpad(g::text, 8, '0') AS id, 'exec_' || lpad((g - 1)::text, 8, '0') AS before
            FROM generate_series(1, 10000) g) x;
INSERT INTO execution_steps (execution_id, path, org_id, epoch, step_number, name, type, status, attempt, failures,
                             ports, tokens_used, cost)
  SELECT id, 'a', org_id, 1, 1, 'a', 'log', 'COMPLETED', 1, 0, '{}', 0, 0 FROM executions;
INSERT INTO step_attempts (execution_id, path, attempt, org_id, epoch, worker_id, status, completed_at)
  SELECT id, 'a', 1, org_id, 1, 'worker', 'COMPLETED', now() FROM executions;
INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, progress, data)
  SELECT id, 1, org_id, 'execution_queued', created_at, 0, '{}' FROM executions;
INSERT INTO approvals (id, org_id, execution_id, path, status, title, deciders, quorum)
  SELECT 'appr_' || id, org_id, id, 'a', CASE WHEN id LIKE '%00' THEN 'PENDING' ELSE 'APPROVED' END, 'Go',
         '{"users": [], "roles": []}', 1 FROM executions;
INSERT INTO execution_inbox (id, org_id, execution_id, kind, topic, dedupe_key, applied_at, consumed_by, payload)
  SELECT 'mail_' || id, org_id, id, 'decision', 'appr_' || id, 'appr_' || id || ':user', now(), 'a', '{}'
    FROM executions;
ANALYZE"""

READS: dict[str, Any] = {
    "an execution": lambda on: executions.get(on, ORG, RUN),
    "a page": lambda on: executions.page(on, ORG, ExecutionFilter(), before=None, limit=51),
    "a page of a workflow": lambda on: executions.page(
        on, ORG, ExecutionFilter(workflow_id=WORKFLOW), before="x", limit=51
    ),
    **{
        f"what is {status}": lambda on, status=status: executions.page(
            on, ORG, ExecutionFilter(statuses=frozenset({status})), before=None, limit=51
        )
        for status in ("PENDING", "RUNNING", "WAITING", "PAUSED", "CANCELLING", "FAILED", "CANCELLED")
    },
    "what is waiting of a workflow": lambda on: executions.page(
        on, ORG, ExecutionFilter(statuses=frozenset({"WAITING", "PAUSED"}), workflow_id=WORKFLOW), before=None, limit=51
    ),
    "what is new": lambda on: executions.page(
        on, ORG, ExecutionFilter(created_after=OLDEST + timedelta(minutes=9_990)), before=None, limit=51
    ),
    "what is old": lambda on: executions.page(
        on, ORG, ExecutionFilter(created_before=OLDEST + timedelta(minutes=10)), before=None, limit=51
    ),
    "what is of a customer": lambda on: executions.page(
        on, ORG, ExecutionFilter(labels={"customer": "c7"}), before=None, limit=51
    ),
    "what is of a team": lambda on: executions.page(
        on, ORG, ExecutionFilter(labels={"team": "sales"}), before=None, limit=51
    ),
    "what is of both": lambda on: executions.page(
        on, ORG, ExecutionFilter(labels={"team": "sales", "customer": "c7"}), before="x", limit=51
    ),
    "lineage": lambda on: executions.family(on, ORG, RUN, 200),
    "outcomes": lambda on: executions.outcomes_of(on, ORG, RUN),
    "items": lambda on: executions.items_of(on, ORG, RUN, "a", frozenset(), after="", limit=51),
    "attempts": lambda on: executions.attempts_of(on, ORG, RUN),
    "an approval": lambda on: approvals.get(on, ORG, APPROVAL["id"]),
    "the inbox": lambda on: approvals.page(
        on, ORG, statuses=frozenset({"PENDING"}), execution_id=None, decidable_by=DecidableBy(USER, "owner"),
        before=None, limit=51,
    ),
    "decisions": lambda on: control.decisions(on, ORG, [APPROVAL]),
    "signals kept": lambda on: control.kept_signals(on, ORG, RUN),
    "a duplicate": lambda on: control.duplicate(on, ORG, RUN, MailKind.SIGNAL, "go:1"),
    "failures to retry": lambda on: control.repairable(on, ORG, ExecutionFilter(fingerprint="f500"), 10_001),
    "unread mail": lambda on: insight.unread_mail(on, ORG, RUN),
    "signals at hand": lambda on: insight.unused_signals(on, ORG, RUN),
    "the time of a cancel": lambda on: insight.cancelling_since(on, ORG, RUN),
    "open steps": lambda on: insight.open_steps(on, ORG, RUN),
    "open approvals": lambda on: insight.undecided(on, ORG, RUN),
    "slots of a user": lambda on: insight.user_slots(on, ORG, USER),
    "slots of a key": lambda on: insight.key_slots(on, ORG, "key"),
    "two runs": lambda on: comparison.compared_steps(on, ORG, RUN, RUN, ["a"], {"log": ["message"]}),
    "the timeline": lambda on: insight.timed_attempts(on, ORG, RUN),
    "a failure": lambda on: failures.failure_groups(on, ORG, FailureFilter(), before=None, limit=1, fingerprint="f500"),
    "failures alike": lambda on: failures.with_fingerprint(on, ORG, "f500"),
}  # fmt: skip


@pytest.fixture(scope="module")
async def grown(server: Any, template: str) -> AsyncIterator[AsyncEngine]:
    """The api role's engine on a database with ten thousand executions."""
    async with server.database(template) as database:
        await grow(database)
        engine = api_engine(database.role_url(API), pool_size=1)
        yield engine
        await engine.dispose()


async def grow(database: Database) -> None:
    await database.add_tenant(ORG)
    await database.execute(GROW)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def plans_of(engine: AsyncEngine, connection: AsyncConnection, read: Any) -> list[dict[str, Any]]:
    """The plans, as carried out, of the statements of a read."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        sent.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        await read(connection)
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)
    plans = []
    for statement, parameters in sent:
        told = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
        plan = told.scalar_one()
        plans += nodes((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
    return plans


AT_ONCE = {
    "executions": (execution_reader.ROWS, [[RUN, "exec_00000501"]]),
    "their steps": (execution_reader.STEPS, [[RUN, "exec_00000501"]]),
    "their attempts": (execution_reader.ATTEMPTS, [[RUN, "exec_00000501"]]),
    "events": (event_log.READ, [RUN, 0, 500, None]),
}


@pytest.mark.parametrize("name", AT_ONCE)
async def test_a_read_in_one_round_trip_looks_at_little_more(grown: AsyncEngine, name: str) -> None:
    query, arguments = AT_ONCE[name]
    async with grown.begin() as connection:
        await connection.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        told = await connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {bound_read(query)}", (ORG, *arguments)
        )
        found = told.scalar_one()
    plan = list(nodes((json.loads(found) if isinstance(found, str) else found)[0]["Plan"]))
    assert any("Index" in node["Node Type"] and node["Actual Rows"] for node in plan)
    for node in plan:
        assert node["Node Type"] != "Seq Scan", node["Relation Name"]
        assert node.get("Rows Removed by Filter", 0) < FAR_BEHIND, node


@pytest.mark.parametrize("name", READS)
async def test_a_read_looks_at_little_more_than_it_answers(grown: AsyncEngine, name: str) -> None:
    async with Tenancy(grown).transaction(ORG) as connection:
        await connection.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
        plan = await plans_of(grown, connection, READS[name])
    assert plan
    for node in plan:
        assert node["Node Type"] != "Seq Scan", node["Relation Name"]
        assert node.get("Rows Removed by Filter", 0) < FAR_BEHIND, node
