"""Python functions as steps."""

import asyncio
import contextvars
import threading
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from step_fakes import SpyContext

from app.domain.errors import StepError
from app.steps import functions
from app.steps.function import GROUP, FunctionCatalogue, FunctionStep
from app.steps.threads import Threads

word = contextvars.ContextVar("word", default="none")


def exits() -> None:
    raise SystemExit(3)


def stops() -> None:
    raise StopIteration


def cancels() -> None:
    raise asyncio.CancelledError


async def exits_later() -> None:
    raise SystemExit(3)


async def on_the_loop(context, n: int = 1):
    context.progress(0.5)
    return [n, threading.current_thread() is threading.main_thread()]


def in_a_thread(context):
    context.log("one")
    context.progress(1.0, "two")
    context.token("three")
    context.tool_call("four", {})
    return [threading.current_thread() is threading.main_thread(), word.get(), context.attempt, context.cancelled]


def gives_a_coroutine():
    return on_the_loop(SpyContext(), 5)


def breaks():
    raise ZeroDivisionError("by nothing")


SHIPPED = [functions.fibonacci, functions.echo, functions.score_leads, functions.flaky]
OWN = [exits, stops, cancels, exits_later, on_the_loop, in_a_thread, gives_a_coroutine, breaks]


@pytest.fixture
async def step():
    missing = EntryPoint("missing", "no_such_package_at_all:f", GROUP)
    return FunctionStep(FunctionCatalogue({**{call.__name__: call for call in SHIPPED + OWN}, "missing": missing}))


async def call(step, name, context=None, **args):
    done = await step.run(context or SpyContext(), {"function": name, "args": args})
    return done.output


async def test_fibonacci_computes_by_its_number(step):
    assert await call(step, "fibonacci", n=10) == {"n": 10, "value": 55}
    assert [(await call(step, "fibonacci", n=n))["value"] for n in (0, 1, 2)] == [0, 1, 1]


@pytest.mark.parametrize("n", [-1, 36, "5", True, None, 2.0])
async def test_fibonacci_refuses_what_would_cost_too_much_or_is_no_number(n, step):
    with pytest.raises(StepError) as caught:
        await call(step, "fibonacci", n=n)
    assert (caught.value.error_code, caught.value.retryable) == ("invalid_config", False)


async def test_echo_gives_its_arguments_back(step):
    config = {"function": "echo", "args": {"a": 1, "context": "mine", "function": None}}
    assert (await step.run(SpyContext(), config)).output == {"a": 1, "context": "mine", "function": None}


async def test_score_leads_ranks_and_rates(step):
    leads = [{"name": "a", "fit": 0.1}, {"name": "b", "fit": 1, "intent": 1, "budget": 0.5}]
    scored = await call(step, "score_leads", leads=leads)
    assert scored == {
        "leads": [
            {"name": "b", "fit": 1, "intent": 1, "budget": 0.5, "score": 0.9, "hot": True},
            {"name": "a", "fit": 0.1, "score": 0.04, "hot": False},
        ],
        "count": 2,
        "score": 0.9,
        "risk": 0.5,
    }
    assert await call(step, "score_leads", leads=[]) == {"leads": [], "count": 0, "score": 0.0, "risk": 1.0}


@pytest.mark.parametrize("leads", ["x", [1], [{"fit": 2}], [{"intent": "high"}]])
async def test_score_leads_refuses_what_is_no_lead(leads, step):
    with pytest.raises(StepError, match="score_leads") as caught:
        await call(step, "score_leads", leads=leads)
    assert caught.value.error_code == "invalid_config"


async def test_flaky_fails_as_often_as_asked(step):
    for attempt in (1, 2):
        with pytest.raises(StepError) as caught:
            await call(step, "flaky", SpyContext(attempt=attempt), fail_times=2, value="v")
        assert (caught.value.error_code, caught.value.retryable) == ("failed_on_purpose", True)
    assert await call(step, "flaky", SpyContext(attempt=3), fail_times=2, value="v") == {"attempt": 3, "value": "v"}


async def test_a_function_runs_in_a_thread_and_what_it_says_arrives_in_order(step):
    context = SpyContext(attempt=4)
    word.set("carried")
    assert await call(step, "in_a_thread", context) == [False, "carried", 4, False]
    assert context.said == [
        ("log", "info", "one"), ("progress", 1.0, "two"), ("token", "three"), ("tool_call", "four", {}),
    ]  # fmt: skip


async def test_functions_that_never_return_hold_up_no_others_until_they_are_too_many():
    threads, over, inside = Threads(places=2, lingering=3), threading.Event(), asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()

    def hang():
        loop.call_soon_threadsafe(inside.release)
        over.wait(60)

    async def give_up_one():
        hanging = asyncio.create_task(threads.run(hang))
        await inside.acquire()
        hanging.cancel()
        await asyncio.wait([hanging])

    for _ in range(3):
        assert await threads.run(lambda: 1) == 1
        await give_up_one()
    with pytest.raises(StepError) as refused:
        await threads.run(lambda: 1)
    assert (refused.value.error_code, refused.value.retryable) == ("threads_exhausted", True)
    over.set()
    async with asyncio.timeout(10):
        while threads._lingering:
            await asyncio.sleep(0)
    assert await threads.run(lambda: 1) == 1


async def test_coroutine_functions_are_awaited_also_behind_a_plain_one(step):
    assert await call(step, "on_the_loop", n=2) == [2, True]
    assert await call(step, "gives_a_coroutine") == [5, True]


@pytest.mark.parametrize("name", ["exits", "stops", "cancels", "exits_later"])
async def test_a_function_cannot_end_the_service_or_hang_its_step(name, step):
    with pytest.raises(StepError, match=f"'{name}' raised"):
        await asyncio.wait_for(call(step, name), 10)


async def test_an_exception_of_a_function_is_passed_on(step):
    with pytest.raises(ZeroDivisionError):
        await call(step, "breaks")


def test_an_unknown_function_is_found_before_the_run_with_the_known_names(step):
    (problem,) = step.check({"function": "fibonaci"})
    assert (problem.code, problem.pointer) == ("unknown_function", "/function")
    assert "echo" in problem.detail
    assert "…" in problem.detail


def test_a_function_that_cannot_be_imported_is_found_before_the_run(step):
    (problem,) = step.check({"function": "missing"})
    assert problem.code == "unknown_function"
    assert "no_such_package_at_all" in problem.detail


@pytest.mark.parametrize("args", [{}, {"m": 1}, {"n": 1, "m": "s3cret"}])
def test_arguments_that_do_not_fit_are_found_before_the_run(args, step):
    (problem,) = step.check({"function": "fibonacci", "args": args})
    assert (problem.code, problem.pointer) == ("invalid_arguments", "/args")
    assert "fibonacci(n)" in problem.detail
    assert "s3cret" not in problem.detail


async def test_arguments_that_do_not_fit_fail_the_run_for_good(step):
    with pytest.raises(StepError) as caught:
        await call(step, "fibonacci", m=1)
    assert (caught.value.error_code, caught.value.retryable) == ("invalid_config", False)


def test_the_context_cannot_be_forged_by_arguments(step):
    (problem,) = step.check({"function": "flaky", "args": {"fail_times": 1, "context": {}}})
    assert problem.code == "invalid_arguments"


@pytest.mark.parametrize(
    "config",
    [
        {"function": "${{ input.name }}", "args": {"x": 1}},
        {"function": "fibonacci", "args": "${{ input }}"},
        {"function": "fibonacci", "args": {"${{ input.k }}": 1}},
        {"function": "fibonacci", "args": {"n": "${{ input }}"}},
    ],
)
def test_templates_are_left_for_the_run(config, step):
    assert step.check(config) == []


def test_the_shipped_functions_are_registered_under_the_group():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    registered = {name: EntryPoint(name, value, GROUP).load() for name, value in project["entry-points"][GROUP].items()}
    assert registered == {call.__name__: call for call in SHIPPED}


def test_installed_functions_come_from_entry_points_and_the_first_of_a_name_counts(monkeypatch):
    first = EntryPoint("twice", "app.steps.functions:echo", GROUP)
    second = EntryPoint("twice", "app.steps.functions:flaky", GROUP)
    asked = []

    def entry_points(*, group):
        asked.append(group)
        return [first, second]

    monkeypatch.setattr("app.steps.function.entry_points", entry_points)
    catalogue = FunctionCatalogue.installed()
    assert (asked, catalogue.names()) == ([GROUP], ["twice"])
    assert catalogue.load("twice").call is functions.echo
