"""Hot statements find their rows by index, whatever has been recorded before."""

import json

import pytest

from app.db import event_log, queue, record_sql, workers, workflow_source
from app.db.engines import connect
from app.db.link import PIN_PLANS
from app.db.urls import ENGINE
from tests.engine.harness import ORG, save_workflow

STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": getattr(module, name)
    for module, names in {
        record_sql: ("ACCEPT", "ACCEPTED", "KEPT_KEYS", "RECORD", "POSITIONS"),
        queue: ("CLAIM", "RELEASE", "STEPS", "UNREAD", "WITH_MAIL", "DEPTH"),
        workers: ("RENEW", "RESCUE", "RETIRE"),
        event_log: ("ENDED", "HEADS"),
        workflow_source: ("DEFINITION", "HEAD"),
    }.items()
    for name in names
}

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
INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, status, wake_at)
  SELECT 'exec_old' || g, 'exec_old' || g, 'org_a', '{workflow}', 1, 'user_org_a',
         CASE WHEN g % 100 = 1 THEN 'WAITING' ELSE 'COMPLETED' END,
         CASE WHEN g % 100 = 1 THEN now() + interval '1 day' END
    FROM generate_series(1, 5000) g;
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
        await connection.execute(PIN_PLANS)

        async def of(statement):
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
    plan = await explain(record_sql.RECORD)
    used = {node.get("Relation Name", node.get("Alias")): node for node in plan if "Index Name" in node}
    assert {name: node["Index Name"] for name, node in used.items()} == {
        "executions": "pk_executions",
        "workflows": "pk_workflows",
        "execution_inbox": "pk_execution_inbox",
    }
    # In the order of the arrays, which is that of the ids: two writers cannot wait for each other.
    locks = next(node for node in plan if node.get("Subplan Name") == "CTE w")
    assert [node["Node Type"] for node in nodes(locks)][:2] == ["LockRows", "Sort"]
    update = next(node for node in plan if node.get("Subplan Name") == "CTE f")
    assert [node["Node Type"] for node in nodes(update)][1:] == ["Nested Loop", "Function Scan", "Index Scan"]


async def test_claiming_reads_only_what_can_be_claimed(explain):
    await explain.grow()
    conditions = {
        node["Index Name"]: node.get("Index Cond") for node in await explain(queue.CLAIM) if "Index Name" in node
    }
    assert set(conditions) == {
        "ix_executions_ready", "ix_executions_asleep", "ix_execution_inbox_unread", "pk_executions", "pk_workers",
    }  # fmt: skip
    asleep = [node for node in await explain(queue.CLAIM) if node.get("Index Name") == "ix_executions_asleep"]
    assert any("wake_at <=" in node.get("Index Cond", "") for node in asleep)
