"""The rules of the record: a sound one breaks none, and each finds what breaks it and nothing else."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from app.db.invariants import SHOWN, examine, no_pause, rules
from app.db.urls import ENGINE
from app.domain.definition import RetryPolicy
from app.domain.errors import StepError
from app.domain.steps import Done
from app.engine.step_types import StepContext
from tests.database import Database, Server
from tests.engine.flow import Flow
from tests.engine.harness import ORG, engine, eventually, save_workflow
from tests.engine.kit import Gate, Step

LIVING = (
    "INSERT INTO workers (id, host, pid, incarnation, lease_until, started_at) "
    "VALUES ('living', 'here', 1, '1', now() + interval '1 minute', now() - interval '1 day');"
)
BROKEN = [
    ("events_are_gapless", "UPDATE executions SET next_seq = next_seq + 1 WHERE id = '{asleep}'"),
    ("events_are_gapless", "DELETE FROM execution_events WHERE execution_id = '{asleep}' AND seq = 2"),
    ("first_event_is_queued", "UPDATE execution_events SET type = 'log' WHERE execution_id = '{done}' AND seq = 1"),
    ("terminal_event_is_one_and_last", "UPDATE execution_events SET type = 'log' WHERE type = 'execution_completed'"),
    (
        "terminal_event_is_one_and_last",
        "UPDATE execution_events SET type = 'execution_failed' WHERE execution_id = '{asleep}' AND seq = 2",
    ),
    (
        "time_and_progress_never_fall",
        "UPDATE execution_events SET timestamp = timestamp - interval '1 h' WHERE execution_id = '{done}' AND seq = 3",
    ),
    (
        "time_and_progress_never_fall",
        "UPDATE execution_events SET progress = 99 WHERE execution_id = '{asleep}' AND seq = 1",
    ),
    ("ended_is_settled", "UPDATE executions SET wake_at = now() WHERE id = '{done}'"),
    ("ended_is_settled", "UPDATE executions SET completed_at = now() WHERE id = '{asleep}'"),
    (
        "ended_has_no_open_steps",
        "UPDATE execution_steps SET status = 'RUNNING' WHERE execution_id = '{done}' AND path = 'b'",
    ),
    ("unowned_work_is_queued", "UPDATE executions SET status = 'RUNNING' WHERE id = '{asleep}'"),
    ("unowned_work_is_queued", "UPDATE executions SET status = 'PENDING', wake_at = NULL WHERE id = '{asleep}'"),
    ("sleepers_know_when_to_wake", "UPDATE executions SET wake_at = NULL WHERE id = '{asleep}'"),
    ("children_are_there", "UPDATE execution_steps SET awaits = replace(awaits, '{child}', 'exec_none')"),
    ("owners_are_alive", LIVING + "UPDATE executions SET owner = 'dead' WHERE id = '{asleep}'"),
    (
        "owners_are_alive",
        LIVING + "INSERT INTO workers (id, host, pid, incarnation, lease_until) VALUES ('late', '', 1, '', now() - "
        "interval '1 h'); UPDATE executions SET owner = 'late' WHERE id = '{asleep}'",
    ),
    ("sleepers_are_woken", LIVING + "UPDATE executions SET wake_at = now() - interval '1 h' WHERE id = '{asleep}'"),
    ("open_approvals_are_waited_for", "UPDATE approvals SET decided_at = now() WHERE status = 'PENDING'"),
    ("letters_are_used_by_steps", "UPDATE execution_inbox SET consumed_by = 'nowhere' WHERE consumed_by <> ''"),
    ("items_are_complete", "DELETE FROM execution_steps WHERE path = 'm[0]'"),
    ("attempts_are_gapless", "UPDATE step_attempts SET attempt = 13 WHERE path = 'm[1]' AND attempt = 3"),
    ("attempts_are_gapless", "DELETE FROM step_attempts WHERE path = 'm[1]' AND attempt = 1"),
    ("one_attempt_completes", "UPDATE step_attempts SET status = 'COMPLETED' WHERE path = 'm[1]'"),
    ("epochs_never_fall", "UPDATE step_attempts SET epoch = 0 WHERE path = 'm[1]' AND attempt = 3"),
    ("epochs_never_fall", "UPDATE execution_steps SET epoch = 99 WHERE path = 'm[1]'"),
    (
        "one_worker_records_an_epoch",
        "UPDATE step_attempts SET worker_id = 'another' WHERE path = 'm[1]' AND attempt = 3",
    ),
    (
        "steps_start_after_their_needs",
        "UPDATE execution_events SET type = 'step_progress' WHERE type = 'step_completed' AND step_id = 'm'",
    ),
    (
        "skipped_steps_never_start",
        """UPDATE execution_events SET step_id = 'never'
            WHERE execution_id = '{done}' AND type = 'step_started' AND step_id = 'b'""",
    ),
    (
        "no_step_starts_after_a_cancel",
        "UPDATE execution_events SET type = 'execution_cancelling' WHERE execution_id = '{cancelled}' AND seq = 2",
    ),
    ("rows_belong_to_their_execution", "UPDATE step_attempts SET org_id = 'org_b' WHERE path = 'm[1]' AND attempt = 3"),
    ("rows_belong_to_their_execution", "UPDATE execution_events SET org_id = 'org_b' WHERE execution_id = '{done}'"),
    (
        "rows_belong_to_their_execution",
        """INSERT INTO execution_steps
           SELECT (jsonb_populate_record(s, '{{"execution_id": "none"}}')).* FROM execution_steps s WHERE path = 'b'""",
    ),
    ("labels_are_listed", "DELETE FROM execution_labels WHERE execution_id = '{asleep}'"),
    ("labels_are_listed", "INSERT INTO execution_labels SELECT org_id, 'a', 'b', id FROM executions LIMIT 1"),
    ("keys_stand_for_executions", "UPDATE idempotency_keys SET execution_id = 'exec_none'"),
    (
        "keys_stand_for_executions",
        "INSERT INTO idempotency_keys SELECT org_id, 'two', '', execution_id FROM idempotency_keys",
    ),
    ("counters_are_counts", "UPDATE workflows SET success_count = success_count + 1 WHERE execution_count > 0"),
    ("counters_are_counts", "UPDATE workflows SET last_executed_at = now() WHERE execution_count = 0"),
    ("audit_tells_starts_and_ends", "DELETE FROM audit_logs WHERE resource_id = '{asleep}'"),
    ("audit_tells_starts_and_ends", "UPDATE audit_logs SET action = 'log' WHERE action = 'workflow.executed'"),
    ("outcomes_are_guarded", "ALTER TABLE executions DISABLE TRIGGER outcome_is_final"),
    ("outcomes_are_guarded", "DROP TRIGGER settled_is_final ON execution_steps"),
    ("history_is_insert_only", "GRANT DELETE ON execution_events TO stepstream_api"),
    ("history_is_insert_only", "GRANT UPDATE (details) ON audit_logs TO stepstream_auth"),
    ("the_recorder_sees_every_row", "DROP POLICY engine ON executions"),
    ("the_recorder_sees_every_row", "ALTER POLICY engine ON approvals USING (status = 'PENDING')"),
]  # fmt: skip


async def shaky(context: StepContext, config: Mapping[str, Any]) -> Done:
    if config["value"] == 2 and context.attempt < 3:
        raise StepError("not yet")
    return Done(config["value"])


@pytest.fixture(scope="module")
async def record(server: Server, template: str) -> AsyncIterator[tuple[Database, dict[str, str]]]:
    """A database in which everything that a rule speaks of has happened, and the ids of some executions."""
    again = RetryPolicy(max_attempts=3, initial_interval=0.001, jitter="none")
    mapped = {"id": "m", "type": "shaky", "for_each": "${{ input }}", "with": {"value": "${{ item }}"}}
    after = {"id": "b", "type": "log", "needs": ["m"], "with": {"message": "b"}}
    never = {"id": "never", "type": "log", "needs": ["m"], "if": "${{ false }}", "with": {"message": "never"}}
    asleep = {"id": "w", "type": "wait_for_signal", "with": {"signal": "go"}}
    gate = Gate()
    async with server.database(template) as database:
        await database.add_tenant(ORG)
        async with engine(database, types={"shaky": Step(shaky, retry=again), "gate": gate.step}) as running:
            workflow = await save_workflow(database, mapped, after, never)
            ids = {"done": await running.start(workflow, [1, 2, 3], idempotency_key="key", fingerprint="f")}
            assert (await running.finish(ids["done"]))["status"] == "COMPLETED"
            ids["cancelled"] = await running.submit({"id": "gate", "type": "gate"})
            await gate.inside.wait()
            await running.cancel(ids["cancelled"])
            assert (await running.finish(ids["cancelled"]))["status"] == "CANCELLED"
            used = await running.submit(asleep)
            await running.send(used, "signal", 1, topic="go")
            await running.finish(used)
            await running.submit({"id": "a", "type": "approval", "with": {"title": "Pay"}})
            await eventually(lambda: database.fetch("SELECT FROM approvals"))
            sleeper = await save_workflow(database, asleep)
            ids["asleep"] = await running.start(sleeper, labels_text='{"team": "sales"}')
            parent = await running.submit({"id": "p", "type": "workflow.run", "with": {"workflow": sleeper}})
            (ids["child"],) = await eventually(lambda: running.children(parent))
            for waiting in (ids["asleep"], ids["child"], parent):
                await running.until(waiting, "WAITING")
        yield database, ids


async def test_a_sound_record_breaks_no_rule_for_the_role_that_doctor_has(
    record: tuple[Database, dict[str, str]],
) -> None:
    async with record[0].connected(ENGINE) as connection:
        verdicts = await examine(connection)
    assert [verdict.rule for verdict in verdicts] == rules()
    assert [verdict for verdict in verdicts if verdict.count or verdict.unknown] == []


@pytest.mark.parametrize(("rule", "change"), BROKEN)
async def test_what_breaks_a_rule_is_found_by_it_alone(
    record: tuple[Database, dict[str, str]], rule: str, change: str
) -> None:
    database, ids = record
    async with database.connected() as connection:
        transaction = connection.transaction(isolation="repeatable_read")
        await transaction.start()
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(change.format(**ids))
        verdicts = await examine(connection)
        await transaction.rollback()
    assert {verdict.rule.name for verdict in verdicts if verdict.count or verdict.unknown} == {rule}
    (verdict,) = [verdict for verdict in verdicts if verdict.count]
    assert verdict.shown
    assert all(isinstance(row["id"], str) for row in verdict.shown)


def test_every_rule_is_shown_to_find_something() -> None:
    assert {rule for rule, _ in BROKEN} == {rule.name for rule in rules()}
    assert len({rule.name for rule in rules()}) == len(rules())


async def test_nobody_is_blamed_for_what_nobody_was_there_to_do(record: tuple[Database, dict[str, str]]) -> None:
    """All processes are gone, or the only one has just come: what they left behind waits for who comes."""
    database, _ = record
    young = LIVING.replace("now() - interval '1 day'", "now()")
    for others in ("", young):
        async with database.connected() as connection:
            transaction = connection.transaction(isolation="repeatable_read")
            await transaction.start()
            await connection.execute(
                others + "UPDATE executions SET owner = 'dead' WHERE status = 'WAITING' AND parent_id IS NULL;"
                "UPDATE executions SET wake_at = now() - interval '1 h' WHERE status = 'WAITING' AND owner IS NULL"
            )
            verdicts = await examine(connection)
            await transaction.rollback()
        assert [verdict.rule.name for verdict in verdicts if verdict.count] == []


async def test_what_must_come_true_is_asked_again_about_the_same_rows(database: Database) -> None:
    """Others may break the rule at the second look; it is those of the first look that had their time."""
    await database.execute(LIVING)
    first, second = await Flow(database).add(2, status="RUNNING", owner="dead")
    await rescue(database, second)

    async def meanwhile() -> None:
        await rescue(database, first)
        await database.execute("UPDATE executions SET owner = 'dead', ready = false WHERE id = $1", second)

    assert await of_the_dead(database, meanwhile) == []
    assert await of_the_dead(database, no_pause) == [second]
    await rescue(database, second)


async def of_the_dead(database: Database, between_looks: Callable[[], Awaitable[None]]) -> list[object]:
    async with database.connected(ENGINE) as connection:
        verdicts = await examine(connection, between_looks=between_looks)
    (verdict,) = [verdict for verdict in verdicts if verdict.rule.name == "owners_are_alive"]
    return [row["id"] for row in verdict.shown]


async def rescue(database: Database, execution_id: str) -> None:
    await database.execute("UPDATE executions SET owner = NULL, ready = true WHERE id = $1", execution_id)


async def test_of_many_rows_the_first_are_shown_and_all_are_counted(database: Database) -> None:
    await database.execute(
        "INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, progress, data) "
        "SELECT 'exec_' || n, 2, $1, 'log', now(), 0, '{}' FROM generate_series(1, 1234) n", ORG,
    )  # fmt: skip
    async with database.connected(ENGINE) as connection:
        verdicts = {verdict.rule.name: verdict for verdict in await examine(connection)}
    await database.execute("DELETE FROM execution_events")
    verdict = verdicts["rows_belong_to_their_execution"]
    assert (verdict.count, len(verdict.shown)) == (1234, SHOWN)


async def test_a_rule_that_takes_too_long_is_undecided_and_the_others_are_not(database: Database) -> None:
    async with database.connected() as holder, database.connected(ENGINE) as connection:
        async with holder.transaction():
            await holder.execute("LOCK TABLE approvals")
            verdicts = await examine(connection, rule_timeout=0.2)
    undecided = {verdict.rule.name for verdict in verdicts if verdict.unknown}
    assert undecided == {"open_approvals_are_waited_for", "the_recorder_sees_every_row"}
    assert [verdict.rule.name for verdict in verdicts if verdict.count] == []
