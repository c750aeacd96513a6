"""Every execution has a reason to be where it is, with what must move first and when it moves by itself."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.explain import Blocker, ExplainCode, explain
from app.domain.run_facts import ApprovalFact, RateFact, Request, RunFacts, SlotLimit, StepFact
from app.domain.states import ExecutionStatus as Is
from app.domain.states import StepStatus

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def running(step_id: str = "a", since: float = -5, timeout: float | None = 60) -> StepFact:
    return StepFact(step_id, StepStatus.RUNNING, since=after(since), timeout=timeout)


def waiting(reason: str, step_id: str = "a", wake_at: datetime | None = None, **more: Any) -> StepFact:
    return StepFact(step_id, StepStatus.WAITING, reason=reason, wake_at=wake_at, **more)


def queued(**more: Any) -> RunFacts:
    return RunFacts(Is.PENDING, ready=True, **more)


A = Blocker("step", "a")
APPROVAL = ApprovalFact("appr_1", "Refund?", "ask", after(600))
FULL_USER = SlotLimit("user", 2, 2, ("exec_1", "exec_2"))
FULL_ORG = SlotLimit("organization", 5, 7, ("exec_9",))
FULL_KEY = SlotLimit("concurrency", 1, 1, ("exec_7",))

CASES: list[tuple[str, RunFacts, str, Blocker | None, datetime | None]] = [
    ("completed", RunFacts(Is.COMPLETED), "ended", None, None),
    ("failed", RunFacts(Is.FAILED, error="no", error_code="step_error"), "ended", None, None),
    ("cancelled with mail left", RunFacts(Is.CANCELLED, requests=[Request("cancel", NOW)]), "ended", None, None),
    (
        "cancelling while a step runs",
        RunFacts(Is.CANCELLING, owned=True, steps=[running()], cancel_requested_at=after(-4), cancel_grace=10),
        "cancelling", A, after(6),
    ),
    (
        "asked to cancel, not yet heard",
        RunFacts(Is.WAITING, requests=[Request("cancel", NOW)], steps=[waiting("signal", topics=("go",))]),
        "cancelling", None, None,
    ),
    ("terminate asked", queued(requests=[Request("terminate", NOW)], limits=[FULL_USER]), "cancelling", None, None),
    ("paused", RunFacts(Is.PAUSED, status_reason="paused"), "paused", None, None),
    ("paused for no known reason", RunFacts(Is.PAUSED), "paused", None, None),
    (
        "breakpoint",
        RunFacts(Is.PAUSED, pause_reason="breakpoint", pause_at="b"),
        "breakpoint", Blocker("step", "b"), None,
    ),
    ("breakpoint by the status alone", RunFacts(Is.PAUSED, status_reason="breakpoint"), "breakpoint", None, None),
    ("stepping", RunFacts(Is.PAUSED, status_reason="stepping"), "stepping", None, None),
    ("budget", RunFacts(Is.PAUSED, status_reason="budget_exceeded"), "budget_exceeded", None, None),
    (
        "resume asked",
        RunFacts(Is.PAUSED, status_reason="paused", requests=[Request("resume", NOW)]),
        "resuming", None, None,
    ),
    (
        "resumed, and no slot is free",
        RunFacts(Is.PAUSED, status_reason="paused", pause_lifted=True, ready=True, limits=[FULL_USER]),
        "user_limit", Blocker("execution", "exec_1"), None,
    ),
    ("resumed and claimed", RunFacts(Is.PAUSED, pause_lifted=True, owned=True), "resuming", None, None),
    ("delayed start", RunFacts(Is.PENDING, wake_at=after(60)), "delayed_start", None, after(60)),
    ("delayed start has come", RunFacts(Is.PENDING, wake_at=after(-1)), "waking", None, None),
    ("next in the queue", queued(ahead=0), "queued", None, None),
    ("in the queue", queued(ahead=3, limits=[SlotLimit("user", 10, 3)]), "queued", None, None),
    ("full user", queued(limits=[FULL_USER]), "user_limit", Blocker("execution", "exec_1"), None),
    ("full organisation", queued(limits=[FULL_ORG]), "organization_limit", Blocker("execution", "exec_9"), None),
    (
        "the narrowest limit",
        queued(limits=[FULL_KEY, FULL_USER]),
        "concurrency_limit", Blocker("execution", "exec_7"), None,
    ),
    ("rate", queued(rate=RateFact(2, 60, 2, after(30)), limits=[FULL_USER]), "rate_limit", None, after(30)),
    ("rate with room", queued(rate=RateFact(2, 60, 1), ahead=0), "queued", None, None),
    ("a claimed one that has not begun", RunFacts(Is.PENDING, owned=True), "deciding", None, None),
    ("lost its worker", RunFacts(Is.RUNNING, ready=True, steps=[running()]), "recovering", None, None),
    ("lost its worker, not queued", RunFacts(Is.RUNNING, steps=[running()]), "recovering", None, None),
    (
        "woken and held back",
        RunFacts(Is.WAITING, ready=True, limits=[FULL_USER], steps=[waiting("delay")]),
        "user_limit", Blocker("execution", "exec_1"), None,
    ),
    (
        "mail has come",
        RunFacts(Is.WAITING, requests=[Request("signal", NOW)], steps=[waiting("signal", topics=("go",))]),
        "waking", None, None,
    ),
    ("its time has come", RunFacts(Is.WAITING, wake_at=NOW, steps=[waiting("delay")]), "waking", None, None),
    ("running", RunFacts(Is.RUNNING, owned=True, steps=[running()]), "running", A, after(55)),
    ("no timeout known", RunFacts(Is.RUNNING, owned=True, steps=[running(timeout=None)]), "running", A, None),
    (
        "pause asked",
        RunFacts(Is.RUNNING, owned=True, steps=[running()], requests=[Request("pause", NOW)]),
        "pausing", A, None,
    ),
    (
        "pause taken note of",
        RunFacts(Is.RUNNING, owned=True, steps=[running()], pause_reason="paused", status_reason="pause_requested"),
        "pausing", A, None,
    ),
    (
        "past its timeout",
        RunFacts(Is.RUNNING, owned=True, steps=[running("a"), running("b", since=-200)]),
        "overdue_step", Blocker("step", "b"), None,
    ),
    (
        "one runs, one waits",
        RunFacts(Is.RUNNING, owned=True, steps=[waiting("retry", "b", after(9)), running()]),
        "running", A, after(55),
    ),
    (
        "retry",
        RunFacts(Is.WAITING, steps=[waiting("retry", wake_at=after(30), error="HTTP 503", attempt=2)]),
        "retry_backoff", A, after(30),
    ),
    ("delay", RunFacts(Is.WAITING, steps=[waiting("delay", wake_at=after(9))]), "delay", A, after(9)),
    ("repeat", RunFacts(Is.WAITING, steps=[waiting("repeat", wake_at=after(9))]), "repeat_interval", A, after(9)),
    (
        "the first of two times",
        RunFacts(Is.WAITING, steps=[waiting("delay", "a", after(90)), waiting("retry", "b", after(5))]),
        "retry_backoff", Blocker("step", "b"), after(5),
    ),
    (
        "a time before a person",
        RunFacts(Is.WAITING, steps=[waiting("approval", topics=("appr_1",)), waiting("delay", "b", after(5))]),
        "delay", Blocker("step", "b"), after(5),
    ),
    (
        "approval",
        RunFacts(Is.WAITING, steps=[waiting("approval", "ask", topics=("appr_1",))], approvals=[APPROVAL]),
        "approval", Blocker("approval", "appr_1"), after(600),
    ),
    (
        "approval whose row is not seen",
        RunFacts(Is.WAITING, steps=[waiting("approval", "ask", after(7), topics=("appr_1",))]),
        "approval", Blocker("approval", "appr_1"), after(7),
    ),
    (
        "the gate of the run",
        RunFacts(Is.WAITING, approvals=[ApprovalFact("appr_2", "Risky")]),
        "approval", Blocker("approval", "appr_2"), None,
    ),
    (
        "signal",
        RunFacts(Is.WAITING, steps=[waiting("signal", topics=("paid", "shipped"), wake_at=after(60))]),
        "signal", Blocker("signal", "paid"), after(60),
    ),
    (
        "child",
        RunFacts(Is.WAITING, steps=[waiting("child", topics=("exec_5",))]),
        "child", Blocker("execution", "exec_5"), None,
    ),
    ("a step waits for something new", RunFacts(Is.WAITING, steps=[waiting("novelty")]), "delay", A, None),
    (
        "a map whose items all wait",
        RunFacts(Is.WAITING, steps=[running("map"), waiting("retry", "map[3]", after(4))]),
        "retry_backoff", Blocker("step", "map[3]"), after(4),
    ),
    ("between two steps", RunFacts(Is.RUNNING, owned=True), "deciding", None, None),
    ("released a moment ago", RunFacts(Is.WAITING), "waking", None, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "code", "blocker", "moves_at"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_the_reason_is_found(facts: RunFacts, code: str, blocker: Blocker | None, moves_at: datetime | None) -> None:
    found = explain(facts, NOW)
    assert (found.code, found.blocker, found.moves_at) == (code, blocker, moves_at)
    assert found.message


def test_every_code_has_a_case() -> None:
    assert {case[2] for case in CASES} == set(ExplainCode)


def test_the_table_of_the_module_tells_every_code() -> None:
    import app.domain.explain as module

    assert all(f"\n`{code}`" in (module.__doc__ or "") for code in ExplainCode)


def test_the_sentence_names_what_matters() -> None:
    signals = RunFacts(Is.WAITING, steps=[waiting("signal", topics=("paid", "shipped"), mode="all")])
    assert "'paid' and 'shipped'" in explain(signals, NOW).message
    retry = RunFacts(Is.WAITING, steps=[waiting("retry", wake_at=after(30), error="HTTP 503")])
    assert "HTTP 503" in explain(retry, NOW).message
    assert explain(retry, NOW).details["last_error"] == "HTTP 503"
    held = explain(queued(limits=[FULL_USER], ahead=4), NOW)
    assert held.details == {"ahead": 4, "expires_at": None, "limit": 2, "held": 2, "holders": ["exec_1", "exec_2"]}
    many = RunFacts(Is.RUNNING, owned=True, steps=[running(f"s{number}") for number in range(50)])
    assert explain(many, NOW).message == "Steps 's0', 's1', 's2' and 47 more are running"
    assert explain(many, NOW).details["step_count"] == 50
    pausing = RunFacts(Is.RUNNING, owned=True, steps=[running("a"), running("b")], pause_reason="paused")
    assert explain(pausing, NOW).message == "It pauses when steps 'a', 'b' end"


MOMENTS = st.none() | st.integers(-10_000, 10_000).map(after)
STEPS = st.builds(
    StepFact,
    step_id=st.sampled_from(["a", "b", "map", "map[0]", "map[0].x[1]"]),
    status=st.sampled_from([StepStatus.RUNNING, StepStatus.WAITING]),
    reason=st.none() | st.sampled_from(["retry", "delay", "repeat", "signal", "approval", "child", "other"]),
    wake_at=MOMENTS,
    since=MOMENTS,
    timeout=st.none() | st.floats(0.001, 1e6),
    topics=st.lists(st.text(max_size=3), max_size=3).map(tuple),
)
FACTS = st.builds(
    RunFacts,
    status=st.sampled_from(Is),
    status_reason=st.none() | st.text(max_size=5),
    owned=st.booleans(),
    ready=st.booleans(),
    wake_at=MOMENTS,
    steps=st.lists(STEPS, max_size=4),
    approvals=st.lists(st.builds(ApprovalFact, id=st.just("x"), title=st.text(max_size=3)), max_size=2),
    requests=st.lists(st.builds(Request, kind=st.sampled_from(["pause", "signal", "cancel"]), sent_at=st.just(NOW))),
    limits=st.lists(st.sampled_from([FULL_USER, FULL_ORG, FULL_KEY])),
    ahead=st.none() | st.integers(0, 5),
)


@given(FACTS)
def test_whatever_the_facts_there_is_an_answer_and_only_ended_runs_have_ended(facts: RunFacts) -> None:
    found = explain(facts, NOW)
    assert found.message
    assert (found.code == ExplainCode.ENDED) == facts.status.terminal


def test_an_approval_by_several_says_how_many_have_approved() -> None:
    approval = ApprovalFact("appr_1", "Pay?", quorum=2, approved=1)
    found = explain(RunFacts(Is.WAITING, approvals=[approval]), NOW)
    assert found.message.endswith("'Pay?'; 1 of 2 have approved")
    assert (found.details["quorum"], found.details["approved"]) == (2, 1)
