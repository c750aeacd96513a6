"""Waiting for signals, approvals and other executions: nothing is held, nothing is missed, order never matters."""

import json
from typing import Any

import pytest

from app import clock
from tests.database import Database
from tests.engine.harness import ORG, engine, eventually, save_workflow
from tests.engine.kit import Gate, returning

END = {"id": "end", "type": "end", "needs": ["wait"], "with": {"output": "${{ steps.wait.output }}"}}


def wait(**config: Any) -> dict[str, Any]:
    return {"id": "wait", "type": "wait_for_signal", "with": config}


@pytest.mark.parametrize("moment", ["before", "while it runs", "at", "after"])
async def test_a_signal_is_used_whenever_it_comes(database: Database, moment: str) -> None:
    gate = Gate()
    async with engine(database, types={"gate": gate.step}) as running:
        first = {"id": "gate", "type": "gate"}
        execution_id = await running.submit(first, wait(signal="paid") | {"needs": ["gate"]}, END)
        if moment == "before":
            await running.send(execution_id, "signal", {"n": 1}, topic="paid")
        await gate.inside.wait()
        if moment == "while it runs":
            await running.send(execution_id, "signal", {"n": 1}, topic="paid")
        gate.free.set()
        if moment == "after":
            await running.until(execution_id, "WAITING")
        if moment in {"at", "after"}:
            await running.send(execution_id, "signal", {"n": 1}, topic="paid")
        row = await running.finish(execution_id)
        assert json.loads(row["output"]) == {"signal": "paid", "payload": {"n": 1}, "signals": {"paid": {"n": 1}}}
        (received,) = await running.events(execution_id, "signal_received")
        assert received["data"]["name"] == "paid"


async def test_each_signal_is_used_once_in_the_order_sent(database: Database) -> None:
    async with engine(database) as running:
        steps = [
            {"id": f"w{n}", "type": "wait_for_signal", "with": {"signal": "tick"}, "needs": [f"w{n - 1}"] if n else []}
            for n in range(3)
        ]
        execution_id = await running.submit(*steps, output=[f"${{{{ steps.w{n}.output.payload }}}}" for n in range(3)])
        for number in range(3):
            await running.send(execution_id, "signal", number, topic="tick")
        assert json.loads((await running.finish(execution_id))["output"]) == [0, 1, 2]


async def test_all_of_waits_for_each_and_any_of_for_the_first(database: Database) -> None:
    async with engine(database) as running:
        both = await running.submit(wait(all_of=["a", "b"]), END)
        one = await running.submit(wait(any_of=["a", "b"]), END)
        for execution_id in (both, one):
            await running.until(execution_id, "WAITING")
            await running.send(execution_id, "signal", 2, topic="b")
        assert json.loads((await running.finish(one))["output"])["signals"] == {"b": 2}
        assert await running.status(both) == "WAITING"
        await running.send(both, "signal", 1, topic="a")
        assert json.loads((await running.finish(both))["output"])["signals"] == {"a": 1, "b": 2}


async def test_a_signal_that_does_not_come_fails_the_step_or_takes_its_port(database: Database) -> None:
    async with engine(database) as running:
        row = await running.run(wait(signal="never", timeout="50ms"))
        assert (row["status"], row["error_code"]) == ("FAILED", "signal_timeout")
        late = {"id": "late", "type": "end", "needs": ["wait.timed_out"], "with": {"output": "late"}}
        row = await running.run(wait(signal="never", timeout="50ms", on_timeout="continue"), late)
        assert (row["status"], row["output"]) == ("COMPLETED", '"late"')


async def test_a_signal_sent_in_time_counts_though_nobody_rang(database: Database) -> None:
    async with engine(database) as running:
        await running.orchestrator._postman.stop()
        execution_id = await running.submit(wait(signal="go", timeout="300ms"))

        async def waits() -> list[dict[str, Any]]:
            return await running.events(execution_id, "step_waiting")

        await eventually(waits)
        await database.execute(
            "INSERT INTO execution_inbox (id, org_id, execution_id, kind, topic, payload) "
            "VALUES ($1, $2, $3, 'signal', 'go', '1')", clock.new_id("mail"), ORG, execution_id,
        )  # fmt: skip
        assert (await running.finish(execution_id))["status"] == "COMPLETED"


async def test_a_wait_outlives_its_process_and_hears_what_came_meanwhile(database: Database) -> None:
    async with engine(database) as running:
        execution_id = await running.submit(wait(signal="go"), END)
        await running.until(execution_id, "WAITING")
        assert (await running.row(execution_id))["owner"] is None
        await running.crash()
        await running.send(execution_id, "signal", "hello", topic="go")
    async with engine(database) as successor:
        assert json.loads((await successor.finish(execution_id))["output"])["payload"] == "hello"


async def test_mail_to_a_busy_wait_wakes_nobody_else(database: Database) -> None:
    """A signal that nobody waits for yet is taken note of once, and kept."""
    async with engine(database) as running:
        execution_id = await running.submit(wait(signal="go"), END)
        await running.until(execution_id, "WAITING")
        await running.send(execution_id, "signal", 1, topic="other")
        (event,) = await _events(running, execution_id, "signal_received")
        assert event["data"]["name"] == "other"
        assert await running.status(execution_id) == "WAITING"
        assert await running.database.fetch("SELECT id FROM execution_inbox WHERE applied_at IS NULL") == []
        await running.send(execution_id, "signal", 2, topic="go")
        await running.finish(execution_id)


def approval(**config: Any) -> dict[str, Any]:
    return {"id": "wait", "type": "approval", "with": {"title": "Pay the invoice"} | config}


async def _approval_id(running: Any, execution_id: str) -> str:
    await running.until(execution_id, "WAITING")
    (row,) = await running.database.fetch("SELECT id FROM approvals WHERE execution_id = $1", execution_id)
    return str(row["id"])


async def _status(running: Any, approval_id: str) -> str:
    (row,) = await running.database.fetch("SELECT status FROM approvals WHERE id = $1", approval_id)
    return str(row["status"])


async def test_an_approval_goes_on_with_what_was_filled_in(database: Database) -> None:
    async with engine(database) as running:
        execution_id = await running.submit(approval(), END)
        approval_id = await _approval_id(running, execution_id)
        decision = {"decision": "approve", "comment": "fine", "data": {"amount": 5}}
        await running.send(execution_id, "decision", decision, topic=approval_id, user="user_b")
        output = json.loads((await running.finish(execution_id))["output"])
        assert (output["decision"], output["decided_by"], output["data"]) == ("approved", ["user_b"], {"amount": 5})
        assert await _status(running, approval_id) == "APPROVED"


async def test_a_rejection_fails_the_run_unless_it_has_a_port(database: Database) -> None:
    async with engine(database) as running:
        execution_id = await running.submit(approval(), END)
        reject = {"decision": "reject", "comment": "too much"}
        approval_id = await _approval_id(running, execution_id)
        await running.send(execution_id, "decision", reject, topic=approval_id)
        row = await running.finish(execution_id)
        assert (row["status"], row["error_code"]) == ("FAILED", "approval_rejected")
        assert "too much" in row["error"]
        assert await _status(running, approval_id) == "REJECTED"
        no = {"id": "no", "type": "end", "needs": ["wait.rejected"], "with": {"output": "no"}}
        yes = {"id": "yes", "type": "end", "needs": ["wait.approved"], "with": {"output": "yes"}}
        execution_id = await running.submit(approval(on_rejected="continue"), no, yes)
        await running.send(execution_id, "decision", reject, topic=await _approval_id(running, execution_id))
        assert (await running.finish(execution_id))["output"] == '"no"'


async def test_a_quorum_counts_people_not_clicks(database: Database) -> None:
    async with engine(database) as running:
        execution_id = await running.submit(approval(quorum=2), END)
        approval_id = await _approval_id(running, execution_id)
        for user in ("user_b", "user_b", "user_c"):
            assert await running.status(execution_id) == "WAITING"
            await running.send(execution_id, "decision", {"decision": "approve"}, topic=approval_id, user=user)
            await running.until_read(execution_id)
        output = json.loads((await running.finish(execution_id))["output"])
        assert output["decided_by"] == ["user_b", "user_c"]


async def test_of_opposite_decisions_the_first_counts(database: Database) -> None:
    async with engine(database) as running:
        execution_id = await running.submit(approval(), END)
        approval_id = await _approval_id(running, execution_id)
        await running.crash()
        for user, decision in (("user_b", "approve"), ("user_c", "reject")):
            await running.send(execution_id, "decision", {"decision": decision}, topic=approval_id, user=user)
    async with engine(database) as successor:
        assert (await successor.finish(execution_id))["status"] == "COMPLETED"


async def test_the_deadline_of_an_approval_decides_as_written(database: Database) -> None:
    async with engine(database) as running:
        row = await running.run(approval(deadline="50ms"))
        assert (row["status"], row["error_code"]) == ("FAILED", "approval_expired")
        row = await running.run(approval(deadline="50ms", on_deadline="approve"), END)
        assert json.loads(row["output"])["decision"] == "approved"
        row = await running.run(approval(deadline="50ms", on_deadline="reject"))
        assert row["error_code"] == "approval_rejected"
        rows = await database.fetch("SELECT status FROM approvals ORDER BY id")
        assert [row["status"] for row in rows] == ["EXPIRED", "APPROVED", "REJECTED"]


async def test_a_risky_run_waits_for_its_approval_before_it_completes(database: Database) -> None:
    async with engine(database, types={"risk": returning(0.9)}) as running:
        risky = {"risk_score": "${{ steps.r.output }}", "approval_above": 0.5}
        execution_id = await running.submit({"id": "r", "type": "risk"}, **risky)
        approval_id = await _approval_id(running, execution_id)
        await running.crash()
        await running.send(execution_id, "decision", {"decision": "approve"}, topic=approval_id)
    async with engine(database, types={"risk": returning(0.9)}) as successor:
        row = await successor.finish(execution_id)
        assert row["status"] == "COMPLETED"
        (done,) = await successor.events(execution_id, "execution_completed")
        assert done["data"]["requires_approval"] is True
        execution_id = await successor.submit({"id": "r", "type": "risk"}, **risky)
        approval_id = await _approval_id(successor, execution_id)
        await successor.send(execution_id, "decision", {"decision": "reject"}, topic=approval_id)
        row = await successor.finish(execution_id)
        assert (row["status"], row["error_code"], row["output"]) == ("FAILED", "approval_rejected", None)


def run_workflow(workflow_id: str, **config: Any) -> dict[str, Any]:
    return {"id": "wait", "type": "workflow.run", "with": {"workflow": workflow_id, **config}}


async def test_a_sub_workflow_gives_its_output_and_what_it_cost(database: Database) -> None:
    async with engine(database) as running:
        agent = {"id": "a", "type": "agent", "with": {"model": "stand-in", "prompt": "Hello"}}
        child = await save_workflow(database, agent, output="${{ input }}")
        row = await running.run(run_workflow(child, input={"n": 1}), END)
        assert (row["status"], row["output"]) == ("COMPLETED", '{"n":1}')
        (child_id,) = await running.children(row["id"])
        spent = (await running.row(child_id))["tokens_used"]
        assert row["tokens_used"] == spent > 0


async def test_a_sub_workflow_that_fails_fails_its_step(database: Database) -> None:
    async with engine(database) as running:
        child = await save_workflow(database, {"id": "f", "type": "fail", "with": {"message": "bad luck"}})
        row = await running.run(run_workflow(child))
        assert (row["status"], row["error_code"]) == ("FAILED", "child_failed")
        assert "bad luck" in row["error"]


@pytest.mark.parametrize(("workflow", "code"), [("wf_none", "workflow_not_found"), ("${{ input }}", "invalid_config")])
async def test_a_sub_workflow_that_is_not_there_fails_the_step(database: Database, workflow: str, code: str) -> None:
    async with engine(database) as running:
        row = await running.run(run_workflow(workflow))
        assert (row["status"], row["error_code"]) == ("FAILED", code)


async def test_a_sub_workflow_need_not_be_waited_for(database: Database) -> None:
    async with engine(database) as running:
        child = await save_workflow(database, wait(signal="go"))
        row = await running.run(run_workflow(child, wait=False), END)
        (child_id,) = await running.children(row["id"])
        assert json.loads(row["output"]) == {"execution_id": child_id}
        await running.send(child_id, "signal", topic="go")
        await running.finish(child_id)


async def test_a_workflow_that_runs_itself_ends(database: Database) -> None:
    async with engine(database) as running:
        workflow_id = await save_workflow(database, run_workflow("placeholder"))
        await database.execute(
            "UPDATE workflow_versions SET definition = replace(definition, 'placeholder', $1) WHERE workflow_id = $1",
            workflow_id,
        )
        row = await running.finish(await running.start(workflow_id))
        assert (row["status"], row["error_code"]) == ("FAILED", "child_failed")
        (deepest,) = await database.fetch("SELECT error_code, depth FROM executions ORDER BY depth DESC LIMIT 1")
        assert dict(deepest) == {"error_code": "nested_too_deep", "depth": 8}


async def test_a_cancel_goes_down_to_sub_workflows(database: Database) -> None:
    async with engine(database) as running:
        leaf = await save_workflow(database, wait(signal="never"))
        middle = await save_workflow(database, run_workflow(leaf))
        execution_id = await running.submit(run_workflow(middle))
        await running.until(execution_id, "WAITING")
        (middle_id,) = await running.children(execution_id)
        await running.until(middle_id, "WAITING")
        (leaf_id,) = await running.children(middle_id)
        await running.cancel(execution_id)
        for each in (execution_id, middle_id, leaf_id):
            assert (await running.finish(each))["status"] == "CANCELLED"


async def test_a_child_that_ends_while_its_parents_process_is_dead_is_heard(database: Database) -> None:
    gate = Gate()
    types = {"gate": gate.step}
    async with engine(database, types=types) as running:
        child = await save_workflow(database, {"id": "g", "type": "gate"}, output=7)
        execution_id = await running.submit(run_workflow(child), END)
        await gate.inside.wait()
        await running.crash()
    gate.free.set()
    async with engine(database, types=types) as successor:
        row = await successor.finish(execution_id)
        assert row["output"] == "7"
        assert len(await successor.children(execution_id)) == 1


async def test_a_failure_starts_the_error_workflow_once(database: Database) -> None:
    async with engine(database) as running:
        handler = await save_workflow(database, {"id": "h", "type": "end"}, output="${{ input }}")
        row = await running.run(
            {"id": "f", "type": "fail", "with": {"message": "bad", "code": "bad_luck"}},
            on_error=handler,
            value={"a": 1},
        )
        (handled,) = await running.children(row["id"])
        told = json.loads((await running.finish(handled))["output"])
        assert told | {"workflow_id": "", "workflow_name": ""} == {
            "execution_id": row["id"], "workflow_id": "", "workflow_name": "", "step_id": "f", "error": "bad",
            "error_code": "bad_luck", "input": {"a": 1},
        }  # fmt: skip


async def _events(running: Any, execution_id: str, kind: str) -> list[dict[str, Any]]:
    await running.until_read(execution_id)
    found: list[dict[str, Any]] = await running.events(execution_id, kind)
    return found
