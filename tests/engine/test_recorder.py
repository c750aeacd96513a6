"""Recording: whole or not at all, only by the owner, exactly once, and no worse off for its neighbours."""

import asyncio

import pytest

from app.db.record_sql import FENCE, POSITIONS
from app.db.recorder import GroupRecorder
from app.db.urls import ENGINE
from app.domain.changes import Event
from app.domain.errors import Failure, Unavailable
from app.domain.states import ExecutionStatus
from app.engine.ports import LeaseLost, Recorded, Rejected
from app.engine.rows import MailMark
from tests.engine.harness import ORG, eventually, save_workflow
from tests.engine.kit import Wire
from tests.engine.records import LATER, owned, step_row, transition, written

COMPLETED, FAILED = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED
ONCE = {"write_no": 1, "steps": 1, "attempts": 1, "events": 3, "audit": 0}
ENDED_ONCE = {"write_no": 1, "steps": 1, "attempts": 1, "events": 4, "audit": 1}
NEVER = {"write_no": 0, "steps": 0, "attempts": 0, "events": 1, "audit": 0}


class Bus:
    def __init__(self):
        self.published = []

    def publish(self, execution_id, events):
        self.published.append((execution_id, [event.seq for event in events]))


@pytest.fixture
async def wire(database):
    return Wire(database.role_url(ENGINE), "test-recorder")


@pytest.fixture
async def bus():
    return Bus()


@pytest.fixture
async def flushes():
    return []


@pytest.fixture
async def recorder(wire, bus, flushes):
    recorder = GroupRecorder(wire.connect, bus, sender="me", writers=1, on_flush=lambda n, _: flushes.append(n))
    recorder.start()
    yield recorder
    await recorder.stop()


@pytest.fixture
async def workflow(database):
    return await save_workflow(database, {"id": "a", "type": "log"})


async def together(recorder, wire, *transitions):
    """Record them in one batch: they gather while the writer is held up."""
    held = wire.hold(FENCE)
    unknown = asyncio.ensure_future(recorder.record(transition("exec_unknown")))
    await held.hit.wait()
    waiting = [asyncio.ensure_future(recorder.record(each)) for each in transitions]
    await asyncio.sleep(0)
    held.released.set()
    assert isinstance(await unknown, LeaseLost)
    return await asyncio.gather(*waiting)


async def test_a_transition_writes_all_that_belongs_to_it(recorder, database, workflow, bus):
    execution_id = await owned(database, workflow)
    failure = Failure("some_code", "It broke")
    assert isinstance(await recorder.record(transition(execution_id, ends=FAILED, failure=failure)), Recorded)
    assert await written(database, execution_id) == ENDED_ONCE
    row = (await database.fetch("SELECT * FROM executions WHERE id = $1", execution_id))[0]
    assert (row["status"], row["status_reason"], row["error"], row["error_code"], row["output"], row["owner"]) == (
        "FAILED", "some_code", "It broke", "some_code", None, None,
    )  # fmt: skip
    assert row["started_at"] == row["completed_at"] == row["last_recorded_at"] == LATER
    assert row["duration_seconds"] == 0
    assert bus.published == [(execution_id, [2, 3, 4])]


async def test_the_end_leaves_one_audit_row_with_the_first_error_and_who_asked(recorder, database, workflow):
    execution_id = await owned(database, workflow)
    await recorder.record(transition(execution_id, ends=FAILED, failure=Failure("first", "The first error")))
    (row,) = await database.fetch("SELECT * FROM audit_logs WHERE action = 'workflow.executed'")
    assert row["details"] == f'{{"execution_id" : "{execution_id}", "status" : "FAILED"}}'
    assert (row["org_id"], row["user_id"], row["resource_type"], row["resource_id"]) == (
        ORG, "user_org_a", "workflow", workflow,
    )  # fmt: skip
    assert (row["success"], row["error_code"], row["error_message"]) == (False, "first", "The first error")
    assert (row["ip_address"], row["user_agent"], row["timestamp"]) == ("192.0.2.1", "test", LATER)


@pytest.mark.parametrize(
    "stranger",
    [{"owner": "w2"}, {"epoch": 0}, {"epoch": 2}, {"write_no": 2}, {"write_no": 0}],
    ids=lambda change: "-".join(f"{key}={value}" for key, value in change.items()),
)
async def test_who_does_not_own_the_execution_writes_nothing_and_harms_nobody(
    recorder, wire, database, workflow, bus, flushes, stranger
):
    mine, theirs, other = sorted([await owned(database, workflow) for _ in range(3)])
    await database.execute(
        "INSERT INTO execution_inbox (id, org_id, execution_id, kind) VALUES ('mail_1', $1, $2, 'cancel')", ORG, theirs
    )
    results = await together(
        recorder,
        wire,
        transition(mine, ends=COMPLETED),
        transition(theirs, ends=COMPLETED, mail=[MailMark(theirs, "mail_1")], **stranger),
        transition(other),
    )
    assert [type(result) for result in results] == [Recorded, LeaseLost, Recorded]
    assert flushes[-1] == 3
    assert await written(database, theirs) == NEVER
    assert await database.fetchval("SELECT applied_at FROM execution_inbox") is None
    assert await written(database, mine) == ENDED_ONCE
    assert await written(database, other) == ONCE
    assert [execution_id for execution_id, _ in bus.published] == [mine, other]


async def test_mail_is_marked_read_with_the_transition_that_applies_it(recorder, database, workflow):
    execution_id, other = await owned(database, workflow), await owned(database, workflow)
    for mail, to in (("mail_1", execution_id), ("mail_2", execution_id), ("mail_3", other)):
        await database.execute(
            "INSERT INTO execution_inbox (id, org_id, execution_id, kind) VALUES ($1, $2, $3, 'cancel')", mail, ORG, to
        )
    await recorder.record(
        transition(execution_id, mail=[MailMark(execution_id, each) for each in ("mail_1", "mail_1", "mail_3")])
    )
    read = await database.fetch("SELECT id FROM execution_inbox WHERE applied_at IS NOT NULL")
    assert [row["id"] for row in read] == ["mail_1"]


@pytest.mark.parametrize("after", [True, False], ids=["answer lost", "question lost"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_transition_is_recorded_exactly_once_though_its_answer_is_lost(
    recorder, wire, database, workflow, bus, after, times
):
    ending, going_on = await owned(database, workflow), await owned(database, workflow)
    fault = wire.lose(FENCE, after=after, times=times)
    results = await together_lost(recorder, transition(ending, ends=COMPLETED), transition(going_on))
    assert fault.hits == times
    assert [type(result) for result in results] == [Recorded, Recorded]
    assert await written(database, ending) == ENDED_ONCE
    assert await written(database, going_on) == ONCE
    assert sorted(bus.published) == sorted([(ending, [2, 3, 4]), (going_on, [2, 3])])
    assert await database.fetchval("SELECT execution_count FROM workflows WHERE id = $1", workflow) == 1
    assert isinstance(await recorder.record(transition(going_on, write_no=2, seq=4, step="b")), Recorded)


async def together_lost(recorder, *transitions):
    return await asyncio.gather(*(recorder.record(each) for each in transitions))


async def test_not_even_the_question_whether_it_was_recorded_needs_an_answer(recorder, wire, database, workflow):
    execution_id = await owned(database, workflow)
    faults = [wire.lose(FENCE, after=True), wire.lose(POSITIONS, after=True), wire.lose(POSITIONS, after=False)]
    assert isinstance(await recorder.record(transition(execution_id, ends=COMPLETED)), Recorded)
    assert [fault.hits for fault in faults] == [1, 1, 1]
    assert await written(database, execution_id) == ENDED_ONCE


async def test_after_a_lost_answer_another_owners_writing_is_not_taken_for_ones_own(recorder, wire, database, workflow):
    execution_id = await owned(database, workflow)
    fault = wire.lose(FENCE, after=False)
    held = wire.hold(FENCE)
    recording = asyncio.ensure_future(recorder.record(transition(execution_id)))
    await held.hit.wait()
    await database.execute("UPDATE executions SET owner = 'w2', lease_epoch = 2, write_no = 1")
    held.released.set()
    assert isinstance(await recording, LeaseLost)
    assert fault.hits == 1
    assert await written(database, execution_id) == NEVER | {"write_no": 1}


async def test_a_step_that_settles_ends_a_row_of_recoveries(recorder, database, workflow):
    execution_id = await owned(database, workflow)
    await database.execute("UPDATE executions SET recoveries = 3")
    for settles, left in ((False, 3), (True, 0)):
        write_no = 1 + settles
        await recorder.record(
            transition(execution_id, write_no=write_no, seq=2 * write_no, step=str(settles), settles_step=settles)
        )
        assert await database.fetchval("SELECT recoveries FROM executions") == left


BAD = {
    "NUL in a text": {"steps": [step_row("exec_a", output_text='"a\x00b"')]},
    "a lone surrogate": {"status_message": "\ud800"},
    "a number beyond its range": {"tokens_used": 1 << 63},
    "a progress that cannot be": {"progress": 101},
    "an event that is there": {"events": [Event(1, "step_log", "a", LATER, 0, {})]},
    "an event that is no JSON": {"events": [Event(2, "step_log", "a", LATER, 0, {"x": object()})]},
    "an end before the beginning": {"recorded_at": LATER.replace(year=2000), "ends": COMPLETED},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_bad_transition_is_rejected_alone(recorder, wire, database, workflow, bad):
    ids = sorted([await owned(database, workflow) for _ in range(7)])
    culprit = ids[4]
    results = await together(
        recorder, wire, *(transition(each, **(bad if each == culprit else {"ends": COMPLETED})) for each in ids)
    )
    for execution_id, result in zip(ids, results, strict=True):
        assert isinstance(result, Rejected if execution_id == culprit else Recorded)
        assert await written(database, execution_id) == (NEVER if execution_id == culprit else ENDED_ONCE)


async def test_a_final_outcome_is_not_written_over(recorder, database, workflow):
    execution_id = await owned(database, workflow)
    await recorder.record(transition(execution_id, ends=COMPLETED))
    await database.execute("UPDATE executions SET owner = 'w1'")
    result = await recorder.record(transition(execution_id, write_no=2, seq=5, step="b", ends=FAILED))
    assert isinstance(result, Rejected)
    assert "SS001" in result.reason
    await database.execute("UPDATE executions SET owner = NULL")


async def test_wrong_surroundings_fail_nobody_they_are_waited_out(recorder, wire, database, workflow):
    """A right that is missing, or a schema of another version, says nothing about what was to be written."""
    execution_id = await owned(database, workflow)
    await recorder.record(transition("exec_unknown"))
    await database.execute("REVOKE INSERT ON execution_events FROM stepstream_engine")
    await database.execute("ALTER TABLE step_attempts RENAME COLUMN worker_id TO worker")
    recording = asyncio.ensure_future(recorder.record(transition(execution_id, ends=COMPLETED)))

    async def tried_again():
        return wire.opened >= 4 or recording.done()

    await eventually(tried_again)
    await database.execute("GRANT INSERT ON execution_events TO stepstream_engine")
    await database.execute("ALTER TABLE step_attempts RENAME COLUMN worker TO worker_id")
    assert isinstance(await recording, Recorded)
    assert await written(database, execution_id) == ENDED_ONCE


async def test_who_waits_for_a_commit_may_leave_without_cutting_it(recorder, wire, database, workflow, bus):
    execution_id, other = await owned(database, workflow), await owned(database, workflow)
    held = wire.hold(FENCE)
    leaving = asyncio.ensure_future(recorder.record(transition(execution_id, ends=COMPLETED)))
    await held.hit.wait()
    waiting = asyncio.ensure_future(recorder.record(transition(other)))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    held.released.set()
    await waiting
    assert await written(database, execution_id) == ENDED_ONCE
    assert (execution_id, [2, 3, 4]) in bus.published


async def test_stopping_writes_what_is_under_way(recorder, wire, database, workflow):
    execution_id, other = await owned(database, workflow), await owned(database, workflow)
    held = wire.hold(FENCE)
    first = asyncio.ensure_future(recorder.record(transition(execution_id)))
    await held.hit.wait()
    second = asyncio.ensure_future(recorder.record(transition(other)))
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(recorder.stop())
    await asyncio.sleep(0)
    held.released.set()
    await stopping
    assert [type(done.result()) for done in (first, second)] == [Recorded, Recorded]
    with pytest.raises(Unavailable):
        await recorder.record(transition(other, write_no=2))
    assert await written(database, other) == ONCE


async def test_one_batch_rings_once_with_the_ids_it_wrote(recorder, wire, database, workflow, flushes):
    await leased(database, "w1", "w2")
    ids = sorted([await owned(database, workflow) for _ in range(30)])
    rung = []
    async with database.connected() as listener:
        await listener.add_listener("stepstream_events", lambda *args: rung.append(args[-1]))
        await together(recorder, wire, *(transition(each) for each in ids))
        await eventually(lambda: arrived(listener, rung, 2))
    assert flushes == [1, 30]
    assert rung == ["me:exec_unknown", f"me:{','.join(ids)}"]


async def test_where_nobody_else_has_a_lease_nobody_is_rung_for(recorder, database, workflow):
    await leased(database, "w1")
    alone, later = await owned(database, workflow), await owned(database, workflow)
    rung = []
    async with database.connected() as listener:
        await listener.add_listener("stepstream_events", lambda *args: rung.append(args[-1]))
        await recorder.record(transition(alone))
        await leased(database, "w2")
        await recorder.record(transition(later))
        await eventually(lambda: arrived(listener, rung, 1))
    assert rung == [f"me:{later}"]


async def leased(database, *workers):
    await database.execute(
        "INSERT INTO workers (id, host, pid, incarnation, lease_until) "
        "SELECT id, '', 1, '', now() + interval '1 hour' FROM unnest($1::text[]) AS w(id)",
        workers,
    )


async def arrived(listener, rung, number):
    await listener.execute("SELECT 1")
    return len(rung) >= number
