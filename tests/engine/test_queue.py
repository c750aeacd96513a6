"""Claiming: what may be claimed, by whom, how many at most, never by two; and how what is owned is handed back."""

import asyncio
from functools import partial

import pytest

from app.db.claim_sql import RELEASE
from app.db.engines import connect
from app.db.urls import ENGINE
from app.db.workers import Workers
from tests.engine.flow import Flow, claimed
from tests.engine.harness import cancel

SECONDS = 3600.0


@pytest.fixture
async def flow(database):
    flow = Flow(database)
    await flow.open()
    yield flow
    await flow.close()


@pytest.fixture(params=[0, 1000], ids=["unlimited", "limited"])
def queue(flow, request):
    """The order of claims and what they bring do not depend on whether they take turns."""
    return flow.queue(user=request.param)


@pytest.fixture
def add(flow):
    return flow.one


async def test_what_may_be_claimed(queue, add, flow):
    free = {
        await add(),
        await add(status="RUNNING"),
        await add(status="CANCELLING"),
        await add(wakes_in=-1),
        await add(status="WAITING", wakes_in=-1),
        await add(status="PAUSED", wakes_in=-SECONDS),
        await add(status="WAITING", ready=True),
        await add(status="PAUSED", ready=True),
    }
    for status in ("PENDING", "WAITING", "PAUSED"):
        await add(status=status, wakes_in=SECONDS)
        await flow.mail(await add(status=status, wakes_in=SECONDS))
    await add(status="PAUSED")
    await add(owner="w2")
    await add(status="WAITING", wakes_in=-1, owner="w2")
    taken = await claimed(queue)
    assert len(taken) == len(set(taken))
    assert set(taken) == free
    assert await claimed(queue) == []


async def test_who_has_run_goes_before_new_ones_and_urgent_before_old_ones(queue, add):
    old, urgent, new = await add(), await add(priority=5), await add()
    woke, woke_later = await add(status="WAITING", wakes_in=-SECONDS), await add(status="WAITING", wakes_in=0)
    orphan = await add(status="RUNNING")
    order = [await claimed(queue, 1) for _ in range(7)]
    assert order == [[orphan], [woke], [woke_later], [urgent], [old], [new], []]


@pytest.mark.parametrize("limit", [1, 3, 4, 6, 7])
async def test_no_more_is_taken_than_asked_for_and_the_rest_stays_free(queue, add, database, limit):
    for _ in range(3):
        await add(status="WAITING", wakes_in=-1)
        await add()
    await add(status="RUNNING")
    assert len(await claimed(queue, limit)) == limit
    assert await database.fetchval("SELECT count(*) FROM executions WHERE owner IS NULL AND ready") == 7 - limit


async def test_who_has_mail_and_no_owner_is_claimed_without_a_slot(queue, add, flow):
    called = {await add(), await add(wakes_in=SECONDS)}
    called |= {await add(status=status, wakes_in=SECONDS) for status in ("WAITING", "PAUSED")}
    called |= {await add(status="PAUSED"), await add(status="WAITING", ready=True)}
    others = [await add(status=status) for status in ("RUNNING", "CANCELLING")]
    others += [await add(owner="w2"), await add(owner="w2", status="WAITING")]
    for execution_id in (*called, *others):
        await flow.mail(execution_id)
    await add(status="WAITING", wakes_in=-1)
    read = await add(status="WAITING", wakes_in=SECONDS)
    await flow.read(await flow.mail(read, "signal", topic="kept"))
    some = await queue.claim_called("w1", 2)
    claims = [*some, *await queue.claim_called("w1", 10)]
    assert len(some) == 2
    assert {claim.id for claim in claims} == called
    assert {(claim.may_run, claim.verdict, len(claim.mail)) for claim in claims} == {(False, None, 1)}
    assert await queue.claim_called("w1", 10) == []


async def test_mail_that_came_too_late_is_not_looked_at_again_and_again(queue, add, database, flow):
    late, unread = await add(status="WAITING", wakes_in=SECONDS), await add(owner="w2")
    for execution_id in (late, unread):
        await flow.mail(execution_id)
    await database.execute("ALTER TABLE executions DISABLE TRIGGER USER")
    await database.execute("UPDATE executions SET status = 'CANCELLED', wake_at = NULL WHERE id = $1", late)
    assert await queue.claim_called("w1", 10) == []
    rows = await database.fetch("SELECT execution_id FROM execution_inbox WHERE applied_at IS NULL")
    assert [row["execution_id"] for row in rows] == [unread]
    await database.execute("UPDATE executions SET status = 'WAITING', wake_at = now() WHERE id = $1", late)
    await database.execute("ALTER TABLE executions ENABLE TRIGGER USER")


async def test_a_claim_brings_its_limits_its_lineage_and_its_control(queue, flow, database):
    execution_id = await flow.one(status="WAITING", wakes_in=-5, parent="exec_parent")
    await database.execute('UPDATE executions SET depth = 3, control = \'{"only":"a"}\'')
    (claim,) = await queue.claim("w1", 1)
    assert (claim.id, claim.parent_id, claim.depth, claim.control_text) == (
        execution_id, "exec_parent", 3, '{"only":"a"}',
    )  # fmt: skip
    assert (claim.may_run, claim.verdict, claim.wake_at < claim.claimed_at) == (True, None, True)


async def test_a_retry_brings_the_steps_it_carries_before_it_has_written_any(queue, add, database):
    retry, plain = await add(), await add()
    await database.execute("UPDATE executions SET retry_of = 'exec_old' WHERE id = $1", retry)
    await database.execute(
        "INSERT INTO execution_steps (execution_id, path, org_id, epoch, step_number, name, type, status, attempt, "
        "failures, output, ports, tokens_used, cost, reused_from, iteration, items, awaits, edited_by) "
        "SELECT id, 'a', org_id, 0, 1, 'A', 'log', 'COMPLETED', 1, 0, '5', '{}', 0, 0, 'exec_old', 2, 3, '{}', 'me' "
        "FROM executions WHERE id = $1", retry,
    )  # fmt: skip
    claims = {claim.id: claim for claim in await queue.claim("w1", 2)}
    (step,) = claims[retry].steps
    assert (step.path, step.output_text, step.reused_from, step.iteration, step.items, step.awaits_text,
            step.edited_by) == ("a", "5", "exec_old", 2, 3, "{}", "me")  # fmt: skip
    assert claims[plain].steps == []
    await database.execute("DELETE FROM execution_steps")


async def test_a_claim_brings_unread_mail_and_letters_that_were_not_used(queue, add, flow, database):
    execution_id = await add(status="WAITING", wakes_in=-1)
    kept, used, done = [await flow.mail(execution_id, "signal", topic=topic) for topic in ("kept", "used", "done")]
    pause = await flow.mail(execution_id, "pause")
    await flow.read(kept, used, done, pause)
    await database.execute("UPDATE execution_inbox SET consumed_by = 'a' WHERE id = ANY($1::text[])", [used, done])
    unread = await flow.mail(execution_id, "signal", topic="new")
    (claim,) = await queue.claim("w1", 1)
    assert [(mail.id, mail.topic, mail.taken) for mail in claim.mail] == [(kept, "kept", True), (unread, "new", False)]
    assert claim.mail[1].sent_at <= claim.claimed_at
    assert [mail.id for mail in await queue.mail(execution_id)] == [unread]
    await database.execute("UPDATE execution_inbox SET consumed_by = NULL")  # the steps that used them were made up


async def test_each_claim_raises_the_epoch_and_brings_what_is_recorded(queue, add, database):
    execution_id = await add(status="CANCELLING")
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
    await cancel(database, execution_id, "stop")
    (claim,) = await queue.claim("w1", 1)
    assert (claim.owner, claim.epoch, claim.write_no, claim.next_seq) == ("w1", 1, 7, 10)
    assert (claim.recoveries, claim.progress, claim.agent_results_text) == (2, 40, '{"a":1}')
    (step,) = claim.steps
    assert (step.path, step.attempt, step.failures, step.output_text, step.ports) == ("a", 2, 1, "5", {"x", "y"})
    assert (step.tokens_used, step.cost) == (3, 0.5)
    assert [(mail.payload, mail.user_id) for mail in claim.mail] == [({"reason": "stop"}, "user_org_a")]
    assert claim.claimed_at > claim.created_at


async def test_two_who_claim_at_once_share_and_nothing_is_taken_twice(queue, flow):
    ids, other = set(await flow.add(60)), flow.queue()
    batches = await asyncio.gather(
        *(claimed(each, 5, worker) for _ in range(10) for each, worker in ((queue, "w1"), (other, "w2")))
    )
    taken = [execution_id for batch in batches for execution_id in batch]
    assert len(taken) == len(set(taken))
    assert set(taken) | set(await claimed(queue)) == ids


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
async def test_a_row_that_somebody_holds_is_passed_over_not_waited_for(queue, add, database, status):
    held, free = await add(priority=9, status=status), await add(status=status)
    async with database.connected() as other, other.transaction():
        await other.execute("SELECT 1 FROM executions WHERE id = $1 FOR UPDATE", held)
        assert await claimed(queue, 1) == [free]
    assert await claimed(queue, 1) == [held]


async def test_without_a_lease_nothing_is_taken(queue, add, flow):
    await add()
    await add(expires_in=-1)
    await add(status="RUNNING")
    await flow.mail(await add(status="WAITING"))
    assert await claimed(queue, worker="w9") == []
    assert await queue.claim_called("w9", 10) == []
    assert len(await queue.claim("w1", 10)) == 3


HANDED_BACK = [
    ({"status": "PENDING"}, True),
    ({"status": "PENDING", "wakes_in": SECONDS}, False),
    ({"status": "RUNNING"}, True),
    ({"status": "CANCELLING"}, True),
    ({"status": "WAITING", "wakes_in": SECONDS}, False),
    ({"status": "WAITING", "wakes_in": -1}, True),
    ({"status": "PAUSED"}, False),
    ({"status": "PAUSED", "wakes_in": -1}, True),
]


async def released(flow, queue, workers):
    return await queue.release("w1", list)


async def retired(flow, queue, workers):
    return await workers.retire("w1")


async def rescued(flow, queue, workers):
    await flow._execute("UPDATE workers SET lease_until = now() - interval '1 s' WHERE id = 'w1'")
    return await workers.rescue("w2", expired=True)


@pytest.mark.parametrize("hand_back", [released, retired, rescued])
async def test_what_is_handed_back_is_ready_if_it_would_run(queue, flow, database, hand_back):
    ids = [await flow.one(owner="w1", **state) for state, _ in HANDED_BACK]
    workers = Workers(partial(connect, database.role_url(ENGINE), "test"))
    assert await hand_back(flow, queue, workers) in {len(ids), None}
    await workers.close()
    ready = {row["id"]: row["ready"] for row in await database.fetch("SELECT id, ready FROM executions")}
    assert [ready[execution_id] for execution_id in ids] == [wants for _, wants in HANDED_BACK]


@pytest.mark.parametrize("state", [{"status": "WAITING", "wakes_in": SECONDS}, {"status": "PAUSED"}])
@pytest.mark.parametrize("call", ["claim", "claim_called"])
async def test_who_was_told_to_go_on_is_so_again_after_a_crash(queue, flow, state, call):
    execution_id = await flow.one(ready=True, **state)
    mail = await flow.mail(execution_id)
    assert [claim.id for claim in await getattr(queue, call)("w1", 1)] == [execution_id]
    await flow.read(mail)
    assert await queue.release("w1", list) == 1
    assert await claimed(queue) == [execution_id]


async def test_all_but_what_is_kept_is_handed_back(queue, add, database):
    kept, stray, other = await add(owner="w1"), await add(owner="w1"), await add(owner="w2")
    assert await queue.release("w1", lambda: {kept, "exec_unknown"}) == 1
    owners = {row["id"]: row["owner"] for row in await database.fetch("SELECT id, owner FROM executions")}
    assert owners == {kept: "w1", stray: None, other: "w2"}
    assert await queue.release("w1", list) == 1


async def test_what_is_accepted_for_a_worker_while_it_looks_for_strays_is_none(queue, add, database):
    """Who is told what is kept before he looks does not know of what comes in between."""
    arrived = await add(owner="w1")
    told = iter([[], [arrived]])
    assert await queue.release("w1", lambda: next(told)) == 0
    assert await database.fetchval("SELECT owner FROM executions WHERE id = $1", arrived) == "w1"
    assert await queue.release("w1", list) == 1


@pytest.mark.parametrize(("limit", "key"), [(0, None), (0, "k"), (2, None)])
async def test_whether_somebody_waits_is_known_from_the_last_claim(flow, limit, key):
    queue = flow.queue(user=limit)
    assert (queue.limited, queue.nobody_waits) == (limit > 0, False)
    for number, rest in ((0, False), (2, False), (4, True)):
        for _ in range(number):
            await flow.one(key=key, limit=2 if key else None)
        await queue.claim("w1", 3)
        # One more than there is room for, or than the limit allows.
        assert queue.nobody_waits is not (rest or bool(number and (key or limit)))


async def test_a_release_that_comes_late_does_not_take_away_what_was_claimed_since(queue, add, flow, database):
    execution_id = await add()
    (first,) = await queue.claim("w1", 1)
    assert await queue.release("w1", list) == 1
    (second,) = await queue.claim("w1", 1)
    assert (first.id, second.id, second.epoch) == (execution_id, execution_id, first.epoch + 1)
    async with database.connected(ENGINE) as connection:
        assert await connection.fetch(RELEASE, "w1", [execution_id], [first.epoch]) == []
        assert len(await connection.fetch(RELEASE, "w1", [execution_id], [second.epoch])) == 1


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
        await add(status=status)
    await add(wakes_in=SECONDS)
    await add(owner="w1")
    depth, oldest = await queue.depth()
    assert (depth, oldest > 0) == (2, True)
