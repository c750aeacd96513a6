"""Claiming: what may be claimed, in which order, how many at most, and never by two."""

import asyncio
from functools import partial

import pytest

from app.db.engines import connect
from app.db.queue import Queue
from app.db.urls import ENGINE
from tests.engine.harness import cancel, save_workflow
from tests.engine.records import owned

HOUR = "interval '1 hour'"


@pytest.fixture
async def queue(database):
    queue = Queue(partial(connect, database.role_url(ENGINE), "test"))
    for worker in ("w1", "w2"):
        await database.execute(
            "INSERT INTO workers (id, host, pid, incarnation, lease_until) "
            f"VALUES ($1, 'here', 1, '1', now() + {HOUR})", worker,
        )  # fmt: skip
    yield queue
    await queue.close()


@pytest.fixture
async def add(database):
    """Adds an execution in a state; its id."""
    workflow = await save_workflow(database, {"id": "a", "type": "log"})

    async def one(status="PENDING", wake_at="NULL", priority=0, owner=None):
        execution_id = await owned(database, workflow)
        await database.execute(
            f"UPDATE executions SET status = $2, priority = $3, owner = $4, wake_at = {wake_at} WHERE id = $1",
            execution_id, status, priority, owner,
        )  # fmt: skip
        return execution_id

    return one


async def claimed(queue, limit=100, worker="w1"):
    return [claim.id for claim in await queue.claim(worker, limit)]


async def test_what_may_be_claimed(queue, add, database):
    async def called(status):
        execution_id = await add(status, f"now() + {HOUR}")
        await cancel(database, execution_id)
        return execution_id

    free = {
        await add("PENDING"),
        await add("RUNNING"),
        await add("CANCELLING"),
        await add("WAITING", "now()"),
        await add("PAUSED", f"now() - {HOUR}"),
        await called("WAITING"),
        await called("PAUSED"),
    }
    both = await called("WAITING")
    await database.execute("UPDATE executions SET wake_at = now() WHERE id = $1", both)
    await add("WAITING", f"now() + {HOUR}")
    await add("PAUSED", f"now() + {HOUR}")
    await add("PENDING", owner="w2")
    await add("WAITING", "now()", owner="w2")
    read = await called("WAITING")
    await database.execute("UPDATE execution_inbox SET applied_at = now() WHERE execution_id = $1", read)
    taken = await claimed(queue)
    assert len(taken) == len(set(taken))
    assert set(taken) == free | {both}
    assert await claimed(queue) == []


async def test_who_woke_goes_before_priority_and_that_before_age(queue, add, database):
    old, urgent, new = await add(), await add(priority=5), await add()
    woke, woke_later = await add("WAITING", f"now() - {HOUR}"), await add("WAITING", "now()")
    called = await add("WAITING", f"now() + {HOUR}")
    await cancel(database, called)
    order = [await claimed(queue, 1) for _ in range(7)]
    assert order == [[woke], [woke_later], [called], [urgent], [old], [new], []]


@pytest.mark.parametrize("limit", [1, 3, 4, 6, 7])
async def test_no_more_is_taken_than_asked_for_and_the_rest_stays_free(queue, add, database, limit):
    for _ in range(3):
        await add("WAITING", "now()")
        await add("PENDING")
    await cancel(database, await add("WAITING", f"now() + {HOUR}"))
    assert len(await claimed(queue, limit)) == limit
    assert await database.fetchval("SELECT count(*) FROM executions WHERE owner IS NULL") == 7 - limit


async def test_each_claim_raises_the_epoch_and_brings_what_is_recorded(queue, add, database):
    execution_id = await add("CANCELLING")
    await database.execute(
        "UPDATE executions SET write_no = 7, next_seq = 9, recoveries = 2, agent_results = '{\"a\":1}', progress = 40"
    )
    await database.execute(
        "INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, progress, data) "
        "SELECT id, generate_series(2, 8), org_id, 'step_log', created_at, 0, '{}' FROM executions"
    )
    await database.execute(
        "INSERT INTO execution_steps (execution_id, path, org_id, epoch, step_number, name, type, status, attempt, "
        "failures, output, ports, tokens_used, cost) SELECT id, 'a', org_id, 1, 1, 'A', 'log', 'WAITING', 2, 1, '5', "
        "'{x,y}', 3, 0.5 FROM executions"
    )
    await database.execute(
        "INSERT INTO execution_events (execution_id, seq, org_id, type, timestamp, progress, data, step_id) "
        "SELECT id, 9, org_id, 'step_waiting', created_at, 0, '{}', 'a' FROM executions"
    )
    await database.execute("UPDATE executions SET next_seq = 10")
    await cancel(database, execution_id, "first")
    await database.execute("UPDATE execution_inbox SET applied_at = now()")
    await cancel(database, execution_id, "second")
    (claim,) = await queue.claim("w1", 1)
    assert (claim.owner, claim.epoch, claim.write_no, claim.next_seq) == ("w1", 2, 7, 10)
    assert (claim.recoveries, claim.progress, claim.agent_results_text) == (2, 40, '{"a":1}')
    (step,) = claim.steps
    assert (step.path, step.attempt, step.failures, step.output_text, step.ports) == ("a", 2, 1, "5", {"x", "y"})
    assert (step.tokens_used, step.cost) == (3, 0.5)
    assert [mail.payload["reason"] for mail in claim.mail] == ["first", "second"]
    assert [mail.user_id for mail in claim.mail] == ["user_org_a"] * 2
    assert claim.claimed_at > claim.created_at


async def test_two_who_claim_at_once_share_and_nothing_is_taken_twice(queue, add, database):
    ids = {await add() for _ in range(60)}
    other = Queue(partial(connect, database.role_url(ENGINE), "test"))
    batches = await asyncio.gather(
        *(claimed(each, 5, worker) for _ in range(10) for each, worker in ((queue, "w1"), (other, "w2")))
    )
    await other.close()
    taken = [execution_id for batch in batches for execution_id in batch]
    assert len(taken) == len(set(taken))
    assert set(taken) | set(await claimed(queue)) == ids


async def test_a_row_that_somebody_holds_is_passed_over_not_waited_for(queue, add, database):
    held, free = await add(priority=9), await add()
    async with database.connected() as other, other.transaction():
        await other.execute("SELECT 1 FROM executions WHERE id = $1 FOR UPDATE", held)
        assert await claimed(queue, 1) == [free]
    assert await claimed(queue, 1) == [held]


async def test_without_a_lease_nothing_is_taken(queue, add):
    await add()
    assert await claimed(queue, worker="w3") == []
    assert len(await claimed(queue)) == 1


async def test_all_but_what_is_kept_is_handed_back(queue, add, database):
    kept, stray, other = await add(owner="w1"), await add(owner="w1"), await add(owner="w2")
    assert await queue.release("w1", [kept, "exec_unknown"]) == 1
    owners = {row["id"]: row["owner"] for row in await database.fetch("SELECT id, owner FROM executions")}
    assert owners == {kept: "w1", stray: None, other: "w2"}
    assert await queue.release("w1", []) == 1


async def test_mail_is_found_by_execution_and_by_worker(queue, add, database):
    mine, theirs, quiet = await add(owner="w1"), await add(owner="w2"), await add(owner="w1")
    for execution_id in (mine, mine, theirs):
        await cancel(database, execution_id)
    assert len(await queue.mail(mine)) == 2
    assert await queue.mail(quiet) == []
    assert await queue.with_mail("w1") == [mine]
    await database.execute("UPDATE execution_inbox SET applied_at = now()")
    assert await queue.with_mail("w1") == []


async def test_the_depth_counts_who_waits_for_an_owner(queue, add, database):
    assert await queue.depth() == (0, 0.0)
    for status in ("PENDING", "RUNNING", "WAITING"):
        await add(status, f"now() + {HOUR}")
    await add("PENDING", owner="w1")
    depth, oldest = await queue.depth()
    assert (depth, oldest > 0) == (2, True)
