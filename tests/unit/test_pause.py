"""Pause and resume: no step starts while a run is held, and the time it is PAUSED does not count."""

from datetime import timedelta

import pytest

from tests.unit.runs import Run

TWO = ({"id": "a"}, {"id": "b", "needs": ["a"]})


def test_a_run_pauses_when_what_is_under_way_has_ended() -> None:
    run = Run(*TWO).pause("lunch")
    assert (run.status, run.running) == ("RUNNING", ["a"])
    run.succeed("a")
    assert (run.status, run.started) == ("PAUSED", ["a"])
    assert run.data("execution_paused") == {"reason": "paused", "detail": "lunch", "requested_by": "user_1"}
    assert run.wakes_in is None


def test_it_goes_on_where_it_was() -> None:
    run = Run(*TWO).pause().succeed("a").resume()
    assert (run.status, run.running) == ("RUNNING", ["b"])
    assert run.data("execution_resumed") == {"reason": "resumed"}
    assert run.succeed("b").status == "COMPLETED"


def test_the_last_step_done_a_held_run_pauses_before_it_ends() -> None:
    run = Run({"id": "a"}).pause().succeed("a")
    assert run.status == "PAUSED"
    assert run.resume().status == "COMPLETED"


def test_a_run_that_waits_or_has_not_begun_pauses_at_once() -> None:
    assert Run({"id": "a"}).listen("a").pause().status == "PAUSED"
    queued = Run({"id": "a"}, begin=False)
    queued.snapshot.may_run = False
    assert queued.pause().status == "PAUSED"
    assert queued.started == []


def test_without_a_slot_a_resumed_run_stays_as_it_is_until_it_has_one() -> None:
    run = Run(*TWO).pause().succeed("a")
    run.snapshot.may_run = False
    assert run.resume().status == "PAUSED"
    run.snapshot.may_run = True
    assert run.go_on().running == ["b"]


def test_failed_attempts_are_not_made_again_while_held() -> None:
    run = Run({"id": "a"}, {"id": "b"}).fail("a", retryable=True).pause().go_on(60)
    assert run.running == ["b"]
    assert run.wakes_in is None, "what is due must not keep the owner awake"
    assert run.succeed("b").status == "PAUSED"
    assert run.resume().running == ["a"]


def test_only_the_run_s_own_deadline_wakes_a_run_that_is_about_to_pause() -> None:
    run = Run({"id": "a"}, {"id": "b"}, timeout="100s").fail("a", retryable=True).pause()
    assert run.wakes_in == 100
    run.go_on(100).abort("b")
    assert run.ended_as == "execution_timed_out"


def test_the_time_limit_of_a_run_stands_still_while_it_is_paused() -> None:
    run = Run({"id": "a"}, {"id": "b", "needs": ["a"]}, timeout="60s").go_on(20).pause().succeed("a").go_on(3600)
    assert run.status == "PAUSED"
    run.resume()
    assert (run.status, run.wakes_in) == ("RUNNING", 40)
    assert run.changes.thawed
    run.go_on(40).abort("b")
    assert run.ended_as == "execution_timed_out"


def test_the_time_to_send_a_signal_or_to_decide_stands_still_while_it_is_paused() -> None:
    run = Run({"id": "a"}, {"id": "b"}).listen("a", seconds=30).ask("b", seconds=50).go_on(10).pause().go_on(3600)
    assert run.status == "PAUSED"
    run.resume()
    assert (run.status, run.wakes_in) == ("WAITING", 20)
    assert run.approvals == [("appr_1", "PENDING")]
    (told,) = run.changes.approvals
    assert told.deadline is not None
    assert (told.deadline - run.now).total_seconds() == 40


def test_a_delay_does_not_stand_still() -> None:
    run = Run({"id": "a"}).sleep("a", 30).pause().go_on(60)
    assert run.status == "PAUSED"
    assert run.resume().status == "COMPLETED"


def test_letters_that_come_while_it_is_paused_are_used_afterwards() -> None:
    run = Run({"id": "a"}).listen("a").pause().signal("go", 7)
    assert (run.status, run.changes.used) == ("PAUSED", [])
    assert run.resume().status == "COMPLETED"
    assert run.changes.used == [("mail_2", "a")]


@pytest.mark.parametrize("times", [1, 3])
def test_pausing_twice_and_resuming_twice_is_doing_it_once(times: int) -> None:
    run = Run(*TWO)
    for _ in range(times):
        run.pause()
    run.succeed("a")
    for _ in range(times):
        run.resume()
    assert run.running == ["b"]
    assert run.told.count("execution_paused") == run.told.count("execution_resumed") == 1


def test_of_pause_and_resume_the_last_one_counts() -> None:
    """Two operators press at once: the mail has an order, and both owners of it come to the same."""
    run = Run(*TWO).succeed("a")
    run.take(run.letter("resume", {}), run.letter("pause", {}))
    assert run.succeed("b").status == "PAUSED"
    run = Run(*TWO).succeed("a")
    run.take(run.letter("pause", {}), run.letter("resume", {}))
    assert run.succeed("b").status == "COMPLETED"


def test_of_resume_and_pause_of_a_paused_run_the_last_one_counts() -> None:
    run = Run(*TWO).pause().succeed("a")
    run.take(run.letter("resume", {}), run.letter("pause", {}))
    assert (run.status, run.started) == ("PAUSED", ["a"])
    run.take(run.letter("pause", {}), run.letter("resume", {}))
    assert run.running == ["b"]


@pytest.mark.parametrize("stopping", ["cancel", "terminate"])
def test_a_stop_beats_pause_and_resume_in_either_order(stopping: str) -> None:
    for other in ("pause", "resume"):
        for first, second in ((stopping, other), (other, stopping)):
            for paused in (True, False):
                run = Run(*TWO)
                if paused:
                    run.pause().succeed("a")
                run.take(run.letter(first, {}), run.letter(second, {}))
                for path in run.running:
                    run.abort(path)
                assert run.status == "CANCELLED", (first, second, paused)
                assert "b" not in run.started


def test_a_paused_run_that_is_cancelled_says_so_and_ends() -> None:
    run = Run(*TWO).pause().succeed("a").cancel("never mind")
    assert run.status == "CANCELLED"
    assert run.told[-3:] == ["execution_cancelling", "step_skipped b", "execution_cancelled"]


def test_a_run_that_has_not_begun_is_held_in_the_queue_and_goes_back_to_it() -> None:
    run = Run({"id": "a"}, begin=False)
    run.snapshot.may_run = False
    run.snapshot.control.start_at = run.now + timedelta(days=200)
    run.mail("pause", {"reason": "not now"})
    assert (run.status, run.told) == ("PAUSED", ["execution_paused"])
    run.go_on(600).resume()
    assert (run.status, run.snapshot.started_at, run.snapshot.control.frozen) == ("PENDING", None, 0.0)
    run.snapshot.may_run = True
    assert run.go_on(86_400 * 100).status == "PENDING", "its time has not come"
    assert run.go_on(86_400 * 100).status == "RUNNING"
