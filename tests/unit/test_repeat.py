"""`repeat`: a step runs again until its condition holds, at most so often."""

import pytest

from tests.unit.runs import Run


def polling(**policy: object) -> dict[str, object]:
    return {"id": "poll", "repeat": {"until": "output.done", "max": 3, "interval": "10s", **policy}}


def test_it_ends_when_its_condition_holds() -> None:
    run = Run(polling()).succeed("poll", {"done": False})
    assert (run.status, run.wakes_in) == ("WAITING", 10)
    assert run.data("step_progress")["message"] == "Round 1 of at most 3 is done"
    run.go_on(10).succeed("poll", {"done": True})
    assert (run.status, run.output) == ("COMPLETED", '{"done":true}')
    assert [(ended.attempt, ended.status.value) for ended in run.changes.attempts] == [
        (1, "COMPLETED"),
        (2, "COMPLETED"),
    ]


@pytest.mark.parametrize(("rule", "status"), [("fail", "FAILED"), ("continue", "COMPLETED")])
def test_it_runs_at_most_so_often(rule: str, status: str) -> None:
    run = Run(polling(on_exhausted=rule))
    for _ in range(3):
        run.succeed("poll", {"done": False}).go_on(10)
    assert run.status == status
    assert run.started == ["poll"] * 3
    assert run.ended_as == (None if rule == "continue" else "repeat_exhausted")


def test_a_round_sees_the_output_of_the_one_before_and_its_number() -> None:
    step = {"id": "poll", "with": {"round": "${{ index }}", "last": "${{ output }}"}}
    run = Run(step | {"repeat": {"until": "index >= 2", "max": 9}})
    run.succeed("poll", "a").succeed("poll", "b").succeed("poll", "c")
    assert run.status == "COMPLETED"
    assert [start.config for start in run.changes.starts] == [
        {"round": 0, "last": None}, {"round": 1, "last": "a"}, {"round": 2, "last": "b"}
    ]  # fmt: skip


def test_each_round_has_the_attempts_of_the_policy() -> None:
    run = Run(polling(interval="0s") | {"retry": {"max_attempts": 2, "jitter": "none"}})
    for _ in range(2):
        run.fail("poll", retryable=True).go_on(1).succeed("poll", {"done": False})
    run.fail("poll", retryable=True).go_on(1).fail("poll", retryable=True)
    assert run.status == "FAILED"
    assert run.started == ["poll"] * 6


def test_a_condition_that_cannot_be_evaluated_fails_the_step() -> None:
    assert Run(polling()).succeed("poll", "no object").status == "FAILED"


def test_a_stopped_run_does_not_go_round() -> None:
    run = Run(polling(), {"id": "other"}).cancel().succeed("poll", {"done": False}).abort("other")
    assert run.status == "CANCELLED"
    assert run.statuses == {"poll": "COMPLETED", "other": "CANCELLED"}


def test_cancelling_between_rounds_ends_no_attempt_twice() -> None:
    run = Run(polling()).succeed("poll", {"done": False}).cancel()
    assert (run.status, run.statuses) == ("CANCELLED", {"poll": "CANCELLED"})
    assert len(run.changes.attempts) == 1
