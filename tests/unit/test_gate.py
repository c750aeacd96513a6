"""`approval_above`: a run above its risk limit completes only when it was approved."""

import pytest

from tests.unit.runs import Run

GATE = "appr_1"


def risky(risk: float = 0.9, **rule: object) -> Run:
    return Run({"id": "a"}, risk_score=risk, approval_above=0.5, approval=rule or None)


def test_below_the_limit_nobody_is_asked() -> None:
    run = risky(0.5).succeed("a")
    assert run.status == "COMPLETED"
    assert run.data("execution_completed")["requires_approval"] is False


def test_above_it_the_run_waits_for_a_decision() -> None:
    run = risky(deadline="1h").succeed("a", 1)
    assert (run.status, run.wakes_in) == ("WAITING", 3600)
    assert run.approvals == [(GATE, "PENDING")]
    assert run.data("approval_requested")["approval_id"] == GATE
    run.decide("approve")
    assert (run.status, run.output) == ("COMPLETED", "1")
    assert run.approvals == [(GATE, "APPROVED")]
    assert run.changes.used == [("mail_1", "")]
    assert run.data("execution_completed")["requires_approval"] is True


def test_without_a_rule_it_waits_a_month() -> None:
    assert risky().succeed("a").wakes_in == 30 * 86_400


def test_a_rejected_run_fails() -> None:
    run = risky(quorum=2).succeed("a").decide("approve", "ann").decide("reject", "bob", comment="too dear")
    assert (run.status, run.ended_as) == ("FAILED", "approval_rejected")
    assert run.approvals == [(GATE, "REJECTED")]
    assert "too dear" in run.data("execution_failed")["error_message"]


@pytest.mark.parametrize(
    ("rule", "status", "row"),
    [("fail", "FAILED", "EXPIRED"), ("approve", "COMPLETED", "APPROVED"), ("reject", "FAILED", "REJECTED")],
)
def test_what_its_deadline_means(rule: str, status: str, row: str) -> None:
    run = risky(deadline="10s", on_deadline=rule).succeed("a").go_on(10)
    assert (run.status, run.approvals) == (status, [(GATE, row)])


def test_a_quorum_is_waited_for() -> None:
    run = risky(quorum=2).succeed("a").decide("approve", "ann").decide("approve", "ann")
    assert run.status == "WAITING"
    assert run.decide("approve", "bob").status == "COMPLETED"


def test_its_deadline_stands_still_while_the_run_is_paused() -> None:
    run = risky(deadline="60s").succeed("a").go_on(20).pause().go_on(3600)
    assert run.status == "PAUSED"
    assert (run.resume().status, run.wakes_in) == ("WAITING", 40)


@pytest.mark.parametrize("kind", ["cancel", "terminate"])
def test_a_stopped_run_takes_its_question_back(kind: str) -> None:
    run = risky().succeed("a").mail(kind, {})
    assert (run.status, run.approvals) == ("CANCELLED", [(GATE, "CANCELLED")])


def test_a_run_that_times_out_takes_its_question_back() -> None:
    run = Run({"id": "a"}, risk_score=0.9, approval_above=0.5, timeout="60s").succeed("a").go_on(60)
    assert (run.ended_as, run.approvals) == ("execution_timed_out", [(GATE, "CANCELLED")])


def test_approve_and_reject_at_once_count_in_their_order() -> None:
    for words, status in ((("approve", "reject"), "COMPLETED"), (("reject", "approve"), "FAILED")):
        run = risky().succeed("a")
        letters = [
            run.letter("decision", {"decision": word}, user=user, topic=GATE)
            for word, user in zip(words, ("ann", "bob"), strict=True)
        ]
        assert run.take(*letters).status == status


def test_a_run_that_failed_asks_nobody() -> None:
    assert risky().fail("a").approvals == []


def test_without_a_slot_a_decided_run_waits_for_one() -> None:
    run = risky().succeed("a")
    run.snapshot.may_run = False
    assert run.decide("approve").status == "WAITING"
    run.snapshot.may_run = True
    assert run.go_on().status == "COMPLETED"
