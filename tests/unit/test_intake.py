"""Mail is taken in whatever the run's state; what does not fit any more changes nothing."""

from dataclasses import replace

import pytest

from app.domain.changes import Changes
from app.domain.control import StopReason
from app.domain.intake import take_in
from app.domain.mail import LETTERS, MailKind
from tests.unit.runs import Run

PAYLOADS = [None, [], "text", 7, {}, {"reason": 5}, {"steps": ["a"]}, {"step_id": None}, {"max_steps": "x"}]


@pytest.mark.parametrize("kind", MailKind)
@pytest.mark.parametrize("payload", PAYLOADS, ids=str)
def test_mail_of_any_shape_breaks_nothing(kind: MailKind, payload: object) -> None:
    for run in (Run({"id": "a"}), Run({"id": "a"}).listen("a"), Run({"id": "a"}).pause().succeed("a")):
        topic = "go" if kind in LETTERS else None
        run.mail(kind.value, payload, topic=topic)
        assert run.status in {"RUNNING", "WAITING", "PAUSED", "CANCELLING", "CANCELLED", "COMPLETED"}


def test_mail_of_an_unknown_kind_is_taken_note_of_and_changes_nothing() -> None:
    run = Run({"id": "a"}).mail("dance", {})
    assert (run.status, run.told) == ("RUNNING", ["execution_started", "step_started a"])


def test_a_letter_that_an_earlier_owner_took_in_is_not_told_again() -> None:
    run = Run({"id": "a"})
    run.take(replace(run.letter("signal", 1, topic="go"), taken=True))
    assert "signal_received" not in run.told
    assert run.listen("a").status == "COMPLETED"


def test_an_ended_run_takes_nothing_in() -> None:
    run = Run({"id": "a"}).succeed("a")
    changes = Changes()
    take_in(run.workflow, run.snapshot, [run.letter("signal", 1, topic="go"), run.letter("cancel")], run.now, changes)
    assert changes == Changes()
    assert run.stop is None


def test_the_reason_of_a_stop_is_storable_and_of_bounded_length() -> None:
    run = Run({"id": "a"}).cancel("x\x00" * 1_000)
    assert run.stop is not None
    assert run.stop.detail is not None
    assert len(run.stop.detail) == 500
    assert "\x00" not in run.stop.detail


def test_cancel_and_terminate_in_either_order_are_one_forced_stop_by_the_first() -> None:
    for kinds in (("cancel", "terminate"), ("terminate", "cancel")):
        run = Run({"id": "a"})
        first, second = (run.letter(kind, {"reason": kind}, user=kind) for kind in kinds)
        run.take(first, second)
        assert run.stop is not None
        assert (run.stop.reason, run.stop.forced) == (StopReason.CANCELLED, True)
        assert (run.stop.detail, run.stop.user_id) == (kinds[0], kinds[0])


def test_a_run_that_times_out_is_not_cancelled_any_more() -> None:
    run = Run({"id": "a"}, timeout="5s").go_on(5).cancel().abort("a")
    assert run.ended_as == "execution_timed_out"


def test_a_run_that_is_being_stopped_is_not_paused() -> None:
    run = Run({"id": "a"}).cancel().pause()
    assert not run.snapshot.control.held
    assert run.abort("a").status == "CANCELLED"


def test_resume_and_step_of_a_run_that_is_not_held_change_nothing() -> None:
    run = Run({"id": "a"}, {"id": "b", "needs": ["a"]}).resume().step().succeed("a")
    assert run.running == ["b"]
    assert run.snapshot.control.steps_left is None
