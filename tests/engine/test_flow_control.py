"""Limits are never exceeded, whoever claims at the same time; who is not blocked is neither slowed nor starved."""

import asyncio
import random

import pytest

from app.db.claim_sql import CLAIM, OVERFLOW, SERIALISED
from app.domain.errors import Unavailable
from tests.engine.flow import Flow, claimed, verdicts
from tests.engine.harness import ORG, eventually

SEEDS = range(4)


@pytest.fixture
async def flow(database):
    flow = Flow(database)
    await flow.open()
    yield flow
    await flow.close()


@pytest.fixture
def add(flow):
    return flow.add


# Slots


async def test_a_user_runs_no_more_than_the_limit_at_once(flow, add):
    first = await add(5)
    queue = flow.queue(user=3)
    assert await claimed(queue) == first[:3]
    assert await claimed(queue) == []
    await flow.begin(*first[:3])
    assert await claimed(queue) == []
    await flow.leave(first[1])
    assert await claimed(queue) == [first[3]]


async def test_the_limit_of_a_user_is_one_for_all_keys(flow, add):
    for n in range(6):
        await add(2, key=f"k{n}" if n % 2 else None, limit=1, rate=(f"r{n}", 5, 60.0))
    queue = flow.queue(user=2)
    assert len(await claimed(queue)) == 2
    assert await claimed(queue) == []


async def test_an_organisation_runs_no_more_than_the_limit_at_once(flow, add):
    await add(3, user="user_x")
    await add(3, user="user_y")
    other = await add(2, org="org_b")
    queue = flow.queue(user=2, org=3)
    taken = await claimed(queue)
    assert set(other) < set(taken)
    assert await flow.holders("org_id") == {ORG: 3, "org_b": 2}
    assert max((await flow.holders()).values()) == 2


async def test_without_limits_everything_is_taken(flow, add):
    ids = await add(150)
    assert await claimed(flow.queue(), 200) == ids


async def test_a_key_has_the_limit_that_its_executions_bring(flow, add):
    a, b = await add(3, key="a", limit=1), await add(3, key="b", limit=2)
    elsewhere = await add(1, org="org_b", key="a", limit=1)
    queue = flow.queue()
    assert set(await claimed(queue)) == {a[0], *b[:2], *elsewhere}
    await flow.leave(a[0])
    assert await claimed(queue) == [a[1]]


async def test_children_need_slots_and_a_waiting_parent_holds_none(flow, add):
    parent = await flow.one(status="WAITING")
    children = await add(2, parent=parent)
    queue = flow.queue(user=1)
    assert await claimed(queue) == children[:1]
    await flow.leave(children[0])
    assert await claimed(queue) == children[1:]


async def test_what_is_claimed_for_its_mail_alone_holds_no_slot(flow, add):
    asleep, new = await flow.one(status="WAITING"), await flow.one(key="k", limit=1, on_limit="skip")
    await flow.mail(asleep)
    queue = flow.queue(user=1)
    (claim,) = await queue.claim_called("w1", 10)
    assert (claim.id, claim.may_run) == (asleep, False)
    assert await claimed(queue) == [new]


async def test_the_runs_of_a_dead_worker_keep_their_slots_and_come_first(flow, add):
    lost = [await flow.one(status="RUNNING"), await flow.one(status="CANCELLING")]
    new = await flow.one(priority=9)
    queue = flow.queue(user=2)
    assert await claimed(queue, 1) == lost[:1]
    assert await claimed(queue) == lost[1:]
    await flow.leave(*lost)
    assert await claimed(queue) == [new]


async def test_who_woke_needs_a_slot_and_gets_it_before_new_ones(flow, add):
    new, awake = await flow.one(priority=9), await flow.one(status="WAITING", wakes_in=-1)
    called = await flow.one(status="PAUSED", ready=True, wakes_in=None)
    running = await flow.one(owner="w2", status="RUNNING")
    queue = flow.queue(user=2)
    assert await claimed(queue) == [awake]
    await flow.leave(running)
    assert await claimed(queue) == [called]
    await flow.leave(awake)
    assert await claimed(queue) == [new]


# Order


async def test_priority_goes_before_age(flow, add):
    old, urgent, new = await flow.one(), await flow.one(priority=5), await flow.one()
    assert await claimed(flow.queue(user=2)) == [urgent, old]
    await flow.leave(urgent)
    assert await claimed(flow.queue(user=2)) == [new]


async def test_organisations_take_turns(flow, add):
    many, few = await add(50), await add(3, org="org_b")
    taken = await claimed(flow.queue(), 8)
    assert set(taken) == {*many[:5], *few}
    assert [execution_id in few for execution_id in taken[:6]].count(True) == 3


async def test_users_of_an_organisation_take_turns_behind_priority(flow, add):
    many, few = await add(50, user="user_x"), await add(2, user="user_y")
    urgent = await add(2, user="user_x", priority=1)
    assert await claimed(flow.queue(), 6) == [*urgent, few[0], few[1], many[0], many[1]]


@pytest.mark.parametrize("limits", [{}, {"user": 40}])
async def test_one_at_a_time_nobody_starves_either(flow, add, limits):
    """Who claims one as another one ends would otherwise always see the same one first in line."""
    await add(50, user="user_x")
    few = [*await add(3, user="user_y"), *await add(3, org="org_b")]
    queue = flow.queue(**limits)
    taken = [(await claimed(queue, 1))[0] for _ in range(14)]
    assert set(few) < set(taken)


async def test_thousands_who_are_blocked_neither_block_nor_are_read(flow, add, database):
    await add(9, user="user_full", owner="w2", status="RUNNING")
    await add(3000, user="user_full", priority=9)
    await database.execute(
        "UPDATE executions SET concurrency_key = id, concurrency_limit = 1, on_limit = 'queue' WHERE ready"
    )
    await add(2000, user="user_keys", key="busy", limit=1, priority=9)
    await flow.one(user="user_holder", owner="w2", status="RUNNING", key="busy", limit=1)
    await add(2000, user="user_rates", rate=("slow", 1, 3600.0), priority=9)
    await flow.one(user="user_holder", owner="w2", status="RUNNING", rate=("slow", 1, 3600.0), begun=-5)
    free = [await flow.one(user=user) for user in ("user_rates", "user_keys", "user_free")]
    queue = flow.queue(user=9)
    rows_read = "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'executions'"
    async with queue._claims.transaction(SERIALISED) as fetch:
        answer = await fetch(CLAIM, "w1", 100, 9, 0, True, "", "", "", "", 3, 1)
        read = (await fetch(rows_read))[0][0]
    assert [row["id"] for row in answer] == free
    assert read < 300


async def test_more_lanes_than_one_look_are_served_all(flow, add, monkeypatch):
    monkeypatch.setattr("app.db.queue.CLAIM", CLAIM.replace("n < 1000", "n < 3").replace("n = 1000", "n = 3"))
    ids = {await flow.one(key=f"k{n:02}", limit=1) for n in range(10)}
    await add(10, user="user_full", owner="w2")
    for n in range(10):
        await flow.one(user="user_z", key=f"k{n:02}", limit=1)
    queue = flow.queue(user=10)
    taken = []
    for _ in range(4):
        taken += await claimed(queue, 4)
    assert sorted(taken) == sorted(ids)
    assert await claimed(queue) == []
    late = await flow.one(user="user_a")
    assert await claimed(queue) == [late]


# Times


async def test_a_start_in_the_future_is_waited_for(flow, add):
    later = await flow.one(wakes_in=3600)
    queue = flow.queue(user=1)
    assert await claimed(queue) == []
    await flow.wake(later)
    (claim,) = await queue.claim("w1", 10)
    assert (claim.id, claim.status, claim.wake_at, claim.may_run) == (later, "PENDING", None, True)


@pytest.mark.parametrize("limits", [{}, {"user": 1}])
async def test_who_queued_too_long_is_claimed_to_be_ended(flow, add, limits):
    expired, sleeping = await flow.one(expires_in=-1), await flow.one(expires_in=-1, wakes_in=-5)
    fresh = await flow.one(expires_in=3600)
    begun = await flow.one(status="WAITING", wakes_in=-1, expires_in=-1, user="user_x")
    claims = await flow.queue(**limits).claim("w1", 10)
    assert verdicts(claims) == {expired: "queue_expired", sleeping: "queue_expired", fresh: None, begun: None}
    assert await flow.holders() == {f"user_{ORG}": 1, "user_x": 1}


async def test_an_expired_one_is_never_begun_even_beyond_the_room(flow, add):
    await add(3, expires_in=-1)
    assert [claim.verdict for claim in await flow.queue(user=1).claim("w1", 2)] == ["queue_expired"] * 2


async def test_a_rate_counts_beginnings_in_its_window(flow, add, database):
    ids = await add(5, rate=("api", 2, 60.0))
    queue = flow.queue()
    assert await claimed(queue) == ids[:2]
    assert await claimed(queue) == []
    await flow.leave(*ids[:2])
    assert await claimed(queue) == []
    await database.execute("UPDATE executions SET started_at = now() - interval '61 s' WHERE id = $1", ids[0])
    assert await claimed(queue) == [ids[2]]


async def test_who_has_begun_goes_on_whatever_the_rate(flow, add):
    awake = await flow.one(status="WAITING", wakes_in=-1, rate=("api", 1, 60.0), begun=-5)
    blocked = await flow.one(rate=("api", 1, 60.0))
    assert await claimed(flow.queue()) == [awake]
    assert blocked


async def test_a_rate_is_shared_by_users_and_ends_with_the_organisation(flow, add):
    for user in ("user_x", "user_y", "user_z"):
        await add(2, user=user, rate=("api", 2, 60.0))
    await add(2, org="org_b", rate=("api", 1, 60.0))
    assert len(await claimed(flow.queue(user=5))) == 3
    assert await flow.holders("org_id") == {ORG: 2, "org_b": 1}


# What does not queue


@pytest.mark.parametrize(
    ("on_limit", "verdict"), [("skip", "concurrency_skipped"), ("cancel_newest", "concurrency_cancelled")]
)
async def test_beyond_the_limit_the_newest_are_ended(flow, add, on_limit, verdict):
    ids = await add(4, key="k", limit=2, on_limit=on_limit)
    queue = flow.queue(user=10)
    claims = await queue.claim("w1", 10)
    assert verdicts(claims) == {ids[0]: None, ids[1]: None, ids[2]: verdict, ids[3]: verdict}
    assert await flow.holders("concurrency_key") == {"k": 2}
    (another,) = await add(key="k", limit=2, on_limit=on_limit)
    assert verdicts(await queue.claim("w1", 10)) == {another: verdict}
    await flow.leave(ids[0])
    (fits,) = await add(key="k", limit=2, on_limit=on_limit)
    assert await claimed(queue) == [fits]


async def test_the_newest_take_the_place_of_who_runs(flow, add, database):
    ids = await add(3, key="k", limit=1, on_limit="cancel_oldest")
    queue, dropped = flow.queue(user=10), "concurrency_cancelled"
    assert verdicts(await queue.claim("w1", 10)) == {ids[0]: dropped, ids[1]: dropped, ids[2]: None}
    await flow.leave(*ids[:2])
    await flow.begin(ids[2])
    asleep = await flow.one(status="WAITING", key="k", limit=1, on_limit="cancel_oldest")
    heir = await flow.one(key="k", limit=1, on_limit="cancel_oldest")
    for _ in range(2):
        assert await queue.claim("w1", 10) == []
    (mail,) = await database.fetch("SELECT * FROM execution_inbox")
    assert (mail["execution_id"], mail["kind"], mail["user_id"]) == (ids[2], "cancel", None)
    assert mail["payload"] == '{"reason":"A newer execution took its place"}'
    assert mail["id"].startswith("mail_")
    await flow.leave(ids[2])
    assert await claimed(queue) == [heir]
    assert asleep


async def test_who_is_ousted_is_rung_for(flow, add, database):
    running = await flow.one(owner="w2", status="RUNNING", key="k", limit=1, on_limit="cancel_oldest")
    rings = []
    async with database.connected() as listener:
        await listener.add_listener("stepstream_inbox", lambda *heard: rings.append(heard[-1]))
        await add(key="k", limit=1, on_limit="cancel_oldest")
        assert await flow.queue().claim("w1", 10) == []

        async def rung():
            return rings

        assert await eventually(rung) == [f":{running}"]


async def test_verdicts_leave_room_and_take_no_slot(flow, add):
    await flow.one(owner="w2", status="RUNNING", key="k", limit=1, on_limit="skip")
    await add(5, key="k", limit=1, on_limit="skip")
    free = await flow.one()
    queue = flow.queue(user=2)
    assert len(await queue.claim("w1", 3)) == 3
    assert verdicts(await queue.claim("w1", 3))[free] is None


async def test_more_full_keys_than_one_look_get_their_verdicts(flow, add, monkeypatch):
    monkeypatch.setattr("app.db.queue.OVERFLOW", OVERFLOW.replace("n < 1000", "n < 2").replace("n = 1000", "n = 2"))
    late = set()
    for n in range(6):
        await flow.one(owner="w2", status="RUNNING", key=f"k{n}", limit=1, on_limit="skip")
        late.add(await flow.one(key=f"k{n}", limit=1, on_limit="skip"))
    queue = flow.queue()
    claims = [claim for _ in range(3) for claim in await queue.claim("w1", 10)]
    assert verdicts(claims) == dict.fromkeys(late, "concurrency_skipped")


async def test_a_run_that_hears_of_its_end_already_makes_no_other_one_leave(flow, add, database):
    for status in ("RUNNING", "CANCELLING"):
        await flow.one(owner="w2", status=status, key="k", limit=2, on_limit="cancel_oldest")
    await add(key="k", limit=2, on_limit="cancel_oldest")
    assert await flow.queue().claim("w1", 10) == []
    assert await database.fetchval("SELECT count(*) FROM execution_inbox") == 0


# Several processes


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_interleaving_of_claimers_exceeds_a_limit(flow, add, seed):
    chance = random.Random(seed)
    users, keys = ["user_x", "user_y", "user_z"], ["k1", "k2", None]
    for _ in range(60):
        key = chance.choice(keys)
        rate = ("r", 9, 3600.0) if chance.random() < 0.2 else None
        await add(
            user=chance.choice(users), key=key, limit=2 if key else None, rate=rate, priority=chance.randint(0, 2)
        )
    queues = [flow.queue(user=3, org=7) for _ in range(4)]
    running: list[str] = []
    began = 0

    async def claimer(number):
        nonlocal began
        for _ in range(8):
            taken = await claimed(queues[number], chance.randint(1, 6), f"w{number + 1}")
            running.extend(taken)
            began += len(taken)
            users_now, keys_now = await flow.holders(), await flow.holders("concurrency_key")
            assert max(users_now.values(), default=0) <= 3
            assert sum(users_now.values()) <= 7
            assert max(keys_now.values(), default=0) <= 2
            chance.shuffle(running)
            for _ in range(chance.randint(0, 3)):
                if running and chance.random() < 0.5:
                    await flow.leave(running.pop())
                elif running:
                    await flow.begin(running[0])

    await asyncio.gather(*(claimer(number) for number in range(4)))
    assert began >= 12


async def test_two_claimers_never_both_see_the_last_slot(flow, add):
    await add(30)
    queues = [flow.queue(user=1) for _ in range(4)]
    for _ in range(5):
        batches = await asyncio.gather(*(claimed(queue, 5, f"w{n + 1}") for n, queue in enumerate(queues)))
        taken = [execution_id for batch in batches for execution_id in batch]
        assert len(taken) == 1
        await flow.leave(*taken)


async def test_a_frozen_claimer_does_not_keep_others_from_claiming_for_long(flow, add, monkeypatch):
    monkeypatch.setattr("app.db.queue.SETUP", "SET idle_in_transaction_session_timeout = '50ms'")
    ids = await add(2)
    frozen, other = flow.queue(user=1), flow.queue(user=1)

    async def freeze():
        async with frozen._claims.transaction(SERIALISED) as fetch:
            assert await claimed(other) == ids[:1]
            await fetch(CLAIM, "w2", 1, 1, 0, True, "", "", "", "", 3, 1)

    with pytest.raises(Unavailable):
        await freeze()
    assert await claimed(frozen) == []
