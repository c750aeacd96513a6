"""Hot statements find their rows by index, whatever has been recorded before."""

import json

import pytest

from app.db import accept_sql, claim_sql, event_log, queue, record_sql, workers, workflow_source
from app.db.engines import connect
from app.db.link import PIN_PLANS
from app.db.urls import ENGINE
from tests.engine.harness import ORG, save_workflow

STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": getattr(module, name)
    for module, names in {
        accept_sql: ("ACCEPTED", "KEPT_KEYS"),
        record_sql: ("POSITIONS",),
        claim_sql: ("LOOK", "EXPIRED", "OVERFLOW", "CLAIM", "CALLED", "STRAYS", "RELEASE"),
        queue: ("STEPS", "MAIL", "UNREAD", "WITH_MAIL", "DEPTH"),
        workers: ("RENEW", "RESCUE", "RETIRE"),
        event_log: ("ENDED", "HEADS"),
        workflow_source: ("DEFINITION", "HEADS"),
    }.items()
    for name in names
}
PARTS = {name: part for name, part in vars(record_sql).items() if isinstance(part, record_sql.Part)}
RECORD = record_sql.statement(*record_sql.PARTS)
STATEMENTS["accept_sql.ACCEPT"] = accept_sql.statement(keyed=True, carried=True)
STATEMENTS |= {f"record_sql.{name}": record_sql.statement(part) for name, part in PARTS.items()} | {"all": RECORD}

CLAIMING = [statement for name, statement in STATEMENTS.items() if name.startswith("claim_sql.")]

EXPLAIN = """
CREATE FUNCTION explain(statement text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
  EXECUTE 'EXPLAIN (GENERIC_PLAN, FORMAT JSON) ' || statement INTO plan;
  RETURN plan;
END $$"""

GROW = """
INSERT INTO workflows (org_id, id, name, latest_version)
  SELECT 'org_a', 'wf_old' || g, 'Old', 1 FROM generate_series(1, 2000) g;
INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, status, wake_at, started_at,
                        concurrency_key, rate_key)
  SELECT 'exec_old' || g, 'exec_old' || g, 'org_a', '{workflow}', 1, 'user_org_a',
         CASE WHEN g % 100 = 1 THEN 'WAITING' ELSE 'COMPLETED' END,
         CASE WHEN g % 100 = 1 THEN now() + interval '1 day' END, now() + interval '1 hour',
         CASE WHEN g % 10 = 0 THEN 'k' END, CASE WHEN g % 10 = 0 THEN 'r' END
    FROM generate_series(1, 5000) g;
INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, ready)
  SELECT 'exec_new' || g, 'exec_new' || g, 'org_a', '{workflow}', 1, 'user_org_a', true FROM generate_series(1, 500) g;
INSERT INTO execution_steps (execution_id, path, org_id, epoch, step_number, name, type, status, attempt, failures,
                             ports, tokens_used, cost)
  SELECT id, 'a', org_id, 1, 1, 'a', 'log', 'COMPLETED', 1, 0, '{{}}', 0, 0 FROM executions;
INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, progress, data)
  SELECT id, 1, org_id, 'execution_queued', created_at, 0, '{{}}' FROM executions;
INSERT INTO execution_inbox (id, org_id, execution_id, kind, applied_at)
  SELECT 'mail_' || id, org_id, id, 'cancel', now() FROM executions WHERE status <> 'WAITING';
INSERT INTO idempotency_keys (org_id, key, fingerprint, execution_id) SELECT org_id, id, '', id FROM executions;
ANALYZE"""


def nodes(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@pytest.fixture
async def explain(server, template):
    """Explains a statement as a connection with pinned plans would run it."""
    async with server.database(template) as database:
        await database.add_tenant(ORG)
        await database.execute(EXPLAIN)
        connection = await connect(database.role_url(ENGINE), "test")

        async def of(statement):
            await connection.execute(f"RESET ALL; {queue.SETUP if statement in CLAIMING else PIN_PLANS}")
            plan = json.loads(await connection.fetchval("SELECT explain($1)", statement))
            return list(nodes(plan[0]["Plan"]))

        async def grow():
            workflow = await save_workflow(database, {"id": "a", "type": "log"})
            await database.execute(GROW.format(workflow=workflow))

        of.grow = grow
        yield of
        await connection.close()


async def test_no_statement_of_the_engine_scans_a_table_empty_or_grown(explain):
    for grown in (False, True):
        if grown:
            await explain.grow()
        for name, statement in STATEMENTS.items():
            for node in await explain(statement):
                # The table of workers has a row for each process.
                scanned = node["Node Type"] == "Seq Scan" and node["Relation Name"] != "workers"
                assert not scanned, (name, node["Relation Name"])


async def test_an_execution_and_a_workflow_are_found_by_their_whole_key(explain):
    await explain.grow()
    assert {*record_sql.PARTS} == {*PARTS.values()}
    plan = await explain(RECORD)
    used = {(node.get("Relation Name", node.get("Alias")), node["Index Name"]) for node in plan if "Index Name" in node}
    assert used == {
        ("executions", "pk_executions"),
        ("executions", "ix_executions_parent_id"),
        ("workflows", "pk_workflows"),
        ("execution_inbox", "pk_execution_inbox"),
        ("workers", "pk_workers"),
    }
    # In the order of the arrays, which is that of the ids: two writers cannot wait for each other.
    locks = next(node for node in plan if node.get("Subplan Name") == "CTE w")
    assert [node["Node Type"] for node in nodes(locks)][:2] == ["LockRows", "Sort"]
    update = next(node for node in plan if node.get("Subplan Name") == "CTE f")
    assert [node["Node Type"] for node in nodes(update)][1:] == ["Nested Loop", "Function Scan", "Index Scan"]


async def test_claiming_reads_only_what_can_be_claimed(explain):
    for grown in (False, True):
        if grown:
            await explain.grow()
        for statement, expected in {
            claim_sql.CLAIM: {"orphans", "ready", "holders", "key_holders", "rates", "beginning"},
            claim_sql.OVERFLOW: {"on_limit", "key_holders"},
            claim_sql.EXPIRED: {"expires_at"},
            claim_sql.CALLED: set(),
            claim_sql.LOOK: {"asleep", "ready", "ready_keyed", "on_limit", "orphans", "expires_at"},
        }.items():
            plan = await explain(statement)
            used = {node["Index Name"] for node in plan if node.get("Index Name", "").startswith("ix_executions_")}
            assert used == {f"ix_executions_{name}" for name in expected}, grown
            by_id = [node for node in plan if node.get("Index Name") == "pk_executions"]
            assert all("id = " in node["Index Cond"] for node in by_id)


async def test_a_claim_reads_lanes_in_their_order_and_stops(explain):
    for grown in (False, True):
        if grown:
            await explain.grow()
        plan = await explain(claim_sql.CLAIM)
        hop, rows = [
            node["Plans"][-1] for node in plan
            if node["Node Type"] == "Limit" and node["Plans"][-1].get("Index Name") == "ix_executions_ready"
        ]  # fmt: skip
        assert "ROW(org_id, user_id, COALESCE(concurrency_key" in hop["Index Cond"]
        assert all(f"{column} = " in rows["Index Cond"] for column in ("org_id", "user_id"))
        assert all(
            f"COALESCE({column}, ''::text) = " in rows["Index Cond"] for column in ("concurrency_key", "rate_key")
        )
        (due,) = [node for node in await explain(claim_sql.LOOK) if node.get("Index Name") == "ix_executions_asleep"]
        assert "wake_at <=" in due["Index Cond"]
