"""Waiting for signals, approvals and other executions: each letter is used once, and its time never matters."""

import random

import pytest

from app.domain.steps import Usage
from app.domain.waits import (
    ApprovalWait,
    Await,
    ChildWait,
    Met,
    Refused,
    SignalWait,
    expire,
    settle,
    wait_from,
    wait_json,
)
from tests.unit.runs import Run

WAIT = {"id": "wait"}
CHILD = {"status": "COMPLETED", "output": {"sum": 3}, "error": None, "tokens_used": 5, "cost": 0.25}


def test_a_wait_gives_up_the_run_until_its_deadline() -> None:
    run = Run(WAIT).listen("wait", "go", seconds=90)
    assert (run.status, run.wakes_in) == ("WAITING", 90)
    assert run.data("step_waiting") == {
        "step_number": 1, "step_name": "wait", "reason": "signal", "wake_at": "2026-01-01T00:01:30.000000Z"
    }  # fmt: skip
    assert run.data("execution_waiting")["reason"] == "signal"


def test_a_signal_ends_the_wait_with_its_payload_and_port() -> None:
    run = Run(WAIT, {"id": "after", "needs": ["wait"]}).listen("wait").signal("go", {"n": 1})
    state = run.snapshot.steps["wait"]
    assert state.output == {"signal": "go", "payload": {"n": 1}, "signals": {"go": {"n": 1}}}
    assert state.ports == {"received"}
    assert run.changes.used == [("mail_1", "wait")]
    assert run.started == ["wait", "after"]


def test_a_signal_that_nobody_waits_for_is_kept_and_told_once() -> None:
    run = Run(WAIT).signal("other").signal("go")
    assert run.told.count("signal_received") == 2
    assert run.listen("wait").status == "COMPLETED"
    assert [letter.topic for letter in run.snapshot.letters] == ["other"]


def test_each_signal_ends_one_wait_only_the_oldest_first() -> None:
    run = Run({"id": "a"}, {"id": "b"}).signal("go", 1).signal("go", 2).listen("b").listen("a")
    assert run.changes.used == [("mail_1", "b"), ("mail_2", "a")]
    assert (run.snapshot.steps["b"].output["payload"], run.snapshot.steps["a"].output["payload"]) == (1, 2)


def test_one_signal_for_two_waits_leaves_the_other_waiting() -> None:
    run = Run({"id": "a"}, {"id": "b"}).listen("a").listen("b").signal()
    assert run.statuses == {"a": "COMPLETED", "b": "WAITING"}
    assert run.status == "WAITING"


def test_without_a_slot_a_wait_that_is_over_waits_for_one() -> None:
    run = Run(WAIT).listen("wait")
    run.snapshot.may_run = False
    run.signal()
    assert run.statuses["wait"] == "WAITING"
    run.snapshot.may_run = True
    assert run.go_on().statuses["wait"] == "COMPLETED"


def test_all_of_takes_one_signal_of_each_name() -> None:
    run = Run(WAIT).listen("wait", "x", "y", mode="all").signal("x", 1).signal("x", 2)
    assert run.status == "WAITING"
    run.signal("y", 3)
    assert run.snapshot.steps["wait"].output == {"signal": "x", "payload": 1, "signals": {"x": 1, "y": 3}}
    assert [letter.payload for letter in run.snapshot.letters] == [2]


def test_any_of_takes_the_first_that_was_sent_and_leaves_the_others() -> None:
    run = Run(WAIT, {"id": "next", "needs": ["wait"]}).signal("y", 1).signal("x", 2).listen("wait", "x", "y")
    assert run.snapshot.steps["wait"].output == {"signal": "y", "payload": 1, "signals": {"y": 1}}
    assert [letter.topic for letter in run.snapshot.letters] == ["x"]


@pytest.mark.parametrize("mode", ["any", "all"])
def test_1000_random_orders_of_signals_and_waits_lose_and_double_nothing(mode: str) -> None:
    """Three waits in a row; signals come before, at and after each of them, and time passes in between."""
    draw = random.Random(f"signals {mode}")
    names = ("x", "y") if mode == "all" else ("x",)
    steps = [{"id": f"s{n}", "needs": [f"s{n - 1}"] if n else []} for n in range(3)]
    for _ in range(500):
        run = Run(*steps)
        letters = [run.letter("signal", n, topic=name) for n in range(3) for name in names]
        draw.shuffle(letters)
        sent = {letter.id: letter for letter in letters}
        while run.status != "COMPLETED":
            choices = ["time", *(["park"] if run.running else []), *(["send", "send two"] if letters else [])]
            match draw.choice(choices):
                case "park":
                    run.listen(run.running[0], *names, mode=mode)
                case "send":
                    run.take(letters.pop())
                case "send two":
                    run.take(*(letters.pop() for _ in range(min(2, len(letters)))))
                case _:
                    run.go_on(draw.choice([0.0, 1.0, 3600.0]))
        used = [letter for letter, _ in run.changes.used]
        assert len(used) == len(set(used)) == 3 * len(names)
        for path in run.statuses:
            assert sorted(str(sent[letter].topic) for letter, by in run.changes.used if by == path) == [*names]
        for name in names:
            taken = [sent[letter].payload for letter in used if sent[letter].topic == name]
            told = [e.data["signal_id"] for e in run.events if e.type == "signal_received"]
            order = [sent[letter].payload for letter in told if sent[letter].topic == name]
            assert taken == order[: len(taken)], "the oldest first"


def test_a_signal_that_does_not_come_in_time_fails_the_step_or_takes_the_other_port() -> None:
    assert Run(WAIT).listen("wait", seconds=5).go_on(5).ended_as == "signal_timeout"
    run = Run(WAIT).listen("wait", seconds=5, on_timeout="continue").go_on(5)
    assert run.status == "COMPLETED"
    assert run.snapshot.steps["wait"].ports == {"timed_out"}


def test_a_signal_at_the_very_deadline_still_counts() -> None:
    run = Run(WAIT).listen("wait", seconds=5)
    run.now = run.now.replace(second=5)
    assert run.signal().status == "COMPLETED"
    assert run.snapshot.steps["wait"].ports == {"received"}


def test_an_approval_is_asked_for_and_told() -> None:
    run = Run(WAIT).ask("wait", seconds=60)
    assert run.approvals == [("appr_1", "PENDING")]
    assert run.data("approval_requested", "wait")["deadline"] == "2026-01-01T00:01:00.000000Z"
    run.decide("approve", comment="fine", data={"x": 1})
    assert run.approvals == [("appr_1", "APPROVED")]
    assert run.changes.approvals[0].deadline is not None
    assert run.data("approval_decided") == {
        "approval_id": "appr_1", "decision": "approve", "decided_by": "boss", "comment": "fine"
    }  # fmt: skip
    assert run.snapshot.steps["wait"].output == {
        "decision": "approved", "approval_id": "appr_1", "decided_by": ["boss"], "comment": "fine", "data": {"x": 1}
    }  # fmt: skip


def test_a_quorum_counts_people_not_decisions() -> None:
    run = Run(WAIT).ask("wait", quorum=2).decide("approve", "ann").decide("approve", "ann")
    assert run.status == "WAITING"
    assert run.decide("approve", "bob").status == "COMPLETED"
    assert run.snapshot.steps["wait"].output["decided_by"] == ["ann", "bob"]


def test_one_rejection_rejects_by_its_rule() -> None:
    run = Run(WAIT).ask("wait", quorum=2).decide("approve", "ann").decide("reject", "bob", comment="no")
    assert run.ended_as == "approval_rejected"
    assert run.approvals == [("appr_1", "REJECTED")]
    run = Run(WAIT).ask("wait", on_rejected="continue").decide("reject")
    assert run.status == "COMPLETED"
    assert run.approvals == [("appr_1", "REJECTED")]
    assert run.snapshot.steps["wait"].ports == {"rejected"}


@pytest.mark.parametrize(("first", "status"), [("approve", "COMPLETED"), ("reject", "FAILED")])
def test_of_two_opposite_decisions_the_first_one_counts(first: str, status: str) -> None:
    second = "reject" if first == "approve" else "approve"
    together = Run(WAIT).ask("wait")
    decisions = [
        together.letter("decision", {"decision": word}, user=user, topic="appr_1")
        for word, user in ((first, "ann"), (second, "bob"))
    ]
    assert together.take(*decisions).status == status
    assert together.told.count("approval_decided wait") == 2
    assert Run(WAIT).ask("wait").decide(first, "ann").decide(second, "bob").status == status


@pytest.mark.parametrize(
    ("rule", "status", "row"),
    [("fail", "FAILED", "EXPIRED"), ("approve", "COMPLETED", "APPROVED"), ("reject", "FAILED", "REJECTED")],
)  # fmt: skip
def test_what_the_deadline_of_an_approval_means(rule: str, status: str, row: str) -> None:
    run = Run(WAIT).ask("wait", seconds=10, on_deadline=rule).go_on(10)
    assert (run.status, run.approvals) == (status, [("appr_1", row)])


def test_an_approval_that_is_over_at_once_is_written_once() -> None:
    assert Run(WAIT).ask("wait", seconds=0, on_deadline="approve").approvals == [("appr_1", "APPROVED")]


def test_a_child_settles_its_step_with_its_output_and_cost() -> None:
    run = Run(WAIT).park("wait", ChildWait("exec_2"))
    assert (run.status, run.wakes_in) == ("WAITING", None)
    run.mail("child", CHILD, user=None, topic="exec_2")
    assert run.status == "COMPLETED"
    assert run.snapshot.steps["wait"].output == {"sum": 3}
    assert run.snapshot.steps["wait"].usage == Usage(5, 0.25)
    assert run.changes.orphans == []


def test_a_child_that_failed_is_an_attempt_that_failed() -> None:
    run = Run(WAIT).park("wait", ChildWait("exec_2"))
    run.mail("child", {"status": "FAILED", "error": "no luck"}, user=None, topic="exec_2")
    assert run.statuses == {"wait": "WAITING"}
    assert "no luck" in run.data("step_retrying")["error_message"]
    run.go_on(5).park("wait", ChildWait("exec_3"))
    assert run.mail("child", CHILD, user=None, topic="exec_3").status == "COMPLETED"
    assert run.changes.orphans == []


def test_a_child_that_nobody_waits_for_any_more_is_cancelled() -> None:
    assert Run(WAIT).park("wait", ChildWait("exec_2")).cancel().changes.orphans == ["exec_2"]
    assert Run(WAIT).park("wait", ChildWait("exec_2"), seconds=5).go_on(5).changes.orphans == ["exec_2"]
    stopped = Run(WAIT).cancel().park("wait", ChildWait("exec_2"))
    assert (stopped.status, stopped.changes.orphans) == ("CANCELLED", ["exec_2"])


def test_a_letter_of_another_kind_or_topic_ends_nothing() -> None:
    run = Run(WAIT).ask("wait").signal("appr_1").decide("approve", approval_id="appr_2")
    assert run.status == "WAITING"
    assert "approval_decided" not in run.told


@pytest.mark.parametrize(
    "wait",
    [
        SignalWait(("a", "b"), "all", "continue"),
        ApprovalWait("appr_1", "May it?", "because", {"type": "object"}, quorum=2, on_deadline="reject"),
        ChildWait("exec_2"),
    ],
)
def test_a_wait_survives_its_record(wait: SignalWait | ApprovalWait | ChildWait) -> None:
    assert wait_from(wait_json(wait)) == wait
    assert Await(wait).seconds is None
    assert settle(wait, []) is None
    assert isinstance(expire(wait), Met | Refused)
