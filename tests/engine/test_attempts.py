"""Attempts: how often, how long, what becomes of their outputs and of what they say."""

import asyncio
import threading

import pytest

from app.domain.definition import RetryPolicy
from app.domain.errors import StepError
from app.domain.jsontext import decode
from app.domain.steps import Done, Effect
from app.engine import driver as driver_module
from app.engine.attempt import ARGUMENTS_LIMIT
from tests.engine.harness import SECRET, engine
from tests.engine.kit import Gate, Step

FAST = RetryPolicy(max_attempts=4, initial_interval=0.01, factor=2, jitter="none")


async def run(database, step, **more):
    """One step of this type, run to the end: the execution's row, the step's row, the engine's answers."""
    async with engine(database, types={"test": step}, max_output=1000, cancel_grace=0.0) as running:
        row = await running.run({"id": "a", "type": "test", **more})
        return row, (await running.steps(row["id"]))["a"], await running.events(row["id"])


def failing(times, error, retry=FAST):
    async def attempt(context, config):
        if context.attempt <= times:
            raise error
        return Done(context.attempt)

    return Step(attempt, retry=retry)


def of_type(events, *kinds):
    return [event for event in events if event["type"] in kinds]


async def test_a_failed_attempt_is_made_again_later_and_later(database):
    row, step, events = await run(database, failing(3, StepError("not yet", code="busy")))
    assert (row["status"], step["output"], step["attempt"], step["failures"]) == ("COMPLETED", "4", 4, 3)
    assert (step["error"], step["error_code"]) == (None, None)
    retries = [event["data"] for event in of_type(events, "step_retrying")]
    assert [(data["attempt"], data["delay_ms"], data["error_message"]) for data in retries] == [
        (2, 10, "not yet"), (3, 20, "not yet"), (4, 40, "not yet"),
    ]  # fmt: skip
    assert len(of_type(events, "step_started")) == 1
    attempts = await database.fetch("SELECT * FROM step_attempts ORDER BY attempt")
    assert [(each["attempt"], each["status"], each["error_code"]) for each in attempts] == [
        (1, "FAILED", "busy"), (2, "FAILED", "busy"), (3, "FAILED", "busy"), (4, "COMPLETED", None),
    ]  # fmt: skip
    for earlier, later, wait in zip(attempts, attempts[1:], (0.01, 0.02, 0.04), strict=False):
        assert (later["started_at"] - earlier["completed_at"]).total_seconds() >= wait


async def test_the_last_failure_is_the_steps(database):
    row, step, events = await run(database, failing(9, StepError("never", code="busy")))
    assert (row["status"], row["error"], row["error_code"]) == ("FAILED", "never", "busy")
    assert (step["status"], step["attempt"], step["failures"]) == ("FAILED", 4, 4)
    assert len(of_type(events, "step_failed")) == 1


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (StepError("no use", code="gone", retryable=False), FAST),
        (StepError("no use", code="gone"), FAST.model_copy(update={"no_retry_on": ("gone",)})),
        (StepError("no use", code="gone"), RetryPolicy(max_attempts=1)),
    ],
    ids=["says so", "policy says so", "one attempt"],
)
async def test_what_is_of_no_use_is_not_tried_again(database, error, retry):
    row, step, events = await run(database, failing(9, error, retry))
    assert (row["error_code"], step["attempt"]) == ("gone", 1)
    assert not of_type(events, "step_retrying")


async def test_the_other_sides_wish_to_wait_is_honoured(database):
    row, _, events = await run(database, failing(1, StepError("slow down", retry_after=0.2)))
    assert row["status"] == "COMPLETED"
    (retry,) = of_type(events, "step_retrying")
    assert retry["data"]["delay_ms"] == 200


@pytest.mark.parametrize("wish", [float("inf"), 1e300, -5.0])
async def test_no_wish_to_wait_breaks_the_run(database, wish):
    policy = FAST.model_copy(update={"max_attempts": 2})
    async with engine(database, types={"test": failing(1, StepError("x", retry_after=wish), policy)}) as running:
        execution_id = await running.submit({"id": "a", "type": "test"})
        row = await running.until(execution_id, "WAITING" if wish > 0 else "COMPLETED")
        assert row["error"] is None


async def test_an_exception_is_told_by_its_first_cause(database):
    async def attempt(context, config):
        try:
            {}["missing"]
        except KeyError as error:
            raise RuntimeError("outer") from error

    row, _, _ = await run(database, Step(attempt))
    assert (row["error"], row["error_code"]) == ("KeyError: 'missing'", "step_error")


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), TimeoutError("slow"), GeneratorExit()])
async def test_no_exception_of_a_step_reaches_beyond_it(database, error):
    async def attempt(context, config):
        raise error

    for effect in (Effect.IDEMPOTENT, Effect.PURE):
        row, step, _ = await run(database, Step(attempt, effect))
        assert (row["status"], row["error_code"], step["status"]) == ("FAILED", "step_error", "FAILED")


async def test_a_step_ends_at_its_timeout_and_may_be_tried_again(database):
    cancelled = []

    async def attempt(context, config):
        if context.attempt == 2:
            return Done("second")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(context.attempt)
            raise

    row, step, _ = await run(database, Step(attempt, retry=FAST, timeout=0.05))
    assert (row["status"], step["output"], cancelled) == ("COMPLETED", '"second"', [1])
    (first, _) = await database.fetch("SELECT * FROM step_attempts ORDER BY attempt")
    assert (first["status"], first["error_code"]) == ("FAILED", "step_timeout")
    assert "0.05 s" in first["error"]


async def test_the_documents_timeout_goes_before_the_types(database):
    async def attempt(context, config):
        await asyncio.Event().wait()

    row, _, _ = await run(database, Step(attempt), timeout=0.03)
    assert (row["error_code"], "0.03 s" in row["error"]) == ("step_timeout", True)


async def test_a_step_that_ignores_its_timeout_is_left_behind(database):
    """Its run goes on without it, and hears no more of it."""
    free, silent = asyncio.Event(), asyncio.Event()

    async def attempt(context, config):
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                context.log("I stay")
        context.log("too late")
        silent.set()
        return Done("too late")

    gate = Gate()
    async with engine(
        database, types={"deaf": Step(attempt, timeout=0.02), "gate": gate.step}, cancel_grace=0.0
    ) as running:
        execution_id = await running.submit(
            {"id": "a", "type": "deaf", "continue_on_error": True}, {"id": "b", "type": "gate", "needs": ["a"]}
        )
        await gate.inside.wait()
        free.set()
        await silent.wait()
        gate.free.set()
        assert (await running.finish(execution_id))["status"] == "COMPLETED"
        step = (await running.steps(execution_id))["a"]
        assert (step["status"], step["error_code"], step["output"]) == ("FAILED", "step_timeout", None)
        said = [event["data"]["message"] for event in await running.events(execution_id, "step_log")]
        assert said in ([], ["I stay"])


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("x" * 999, "output_too_large"),
        ("ü" * 500, "output_too_large"),
        (float("nan"), "output_not_json"),
        ([{"deep": float("inf")}], "output_not_json"),
        (b"bytes", "output_not_json"),
        ({1: "a key that is no text"}, "output_not_json"),
        ("\ud800", "output_not_json"),
        ({"set"}, "output_not_json"),
    ],
    ids=["characters", "bytes", "nan", "inf", "binary", "key", "surrogate", "set"],
)
async def test_an_output_that_cannot_be_kept_fails_the_step_once(database, output, code):
    async def attempt(context, config):
        return Done(output)

    row, step, _ = await run(database, Step(attempt, retry=FAST))
    assert (row["status"], row["error_code"], step["attempt"], step["output"]) == ("FAILED", code, 1, None)


async def test_an_output_of_exactly_the_limit_is_kept(database):
    async def attempt(context, config):
        return Done("x" * 998)

    row, step, _ = await run(database, Step(attempt))
    assert (row["status"], len(step["output"])) == ("COMPLETED", 1000)


async def test_a_step_that_returns_nothing_fails_in_words(database):
    async def attempt(context, config):
        return None

    row, _, _ = await run(database, Step(attempt))
    assert (row["status"], row["error_code"]) == ("FAILED", "step_error")


async def test_a_nul_in_an_output_is_kept(database):
    async def attempt(context, config):
        return Done({"a": "b\x00c"})

    row, step, _ = await run(database, Step(attempt))
    assert (row["status"], decode(step["output"])) == ("COMPLETED", {"a": "b\x00c"})


@pytest.mark.parametrize("fails", [False, True])
async def test_a_known_secret_is_nowhere(database, fails):
    async def attempt(context, config):
        context.log(f"log {SECRET}")
        context.progress(0.5, f"progress {SECRET}")
        context.tool_call(f"call {SECRET}", {"deep": [SECRET]})
        for piece in ("token ", SECRET[:5], SECRET[5:]):
            context.token(piece)
        if fails:
            raise StepError(f"error {SECRET}")
        return Done({SECRET: [f"output {SECRET}"]}, agent_result={"agent": SECRET})

    row, _step, events = await run(database, Step(attempt))
    assert row["status"] == ("FAILED" if fails else "COMPLETED")
    said = {event["type"]: event["data"] for event in events}
    assert said["step_log"]["message"] == "log [secret]"
    assert said["token_delta"]["text"] == "token [secret]"
    assert said["tool_call"] == {"name": "call [secret]", "arguments": {"deep": ["[secret]"]}}
    for table in ("executions", "execution_steps", "step_attempts", "execution_events", "audit_logs"):
        for stored in await database.fetch(f"SELECT t::text AS words FROM {table} t"):
            assert SECRET not in stored["words"], table


async def test_what_a_step_says_comes_in_order_and_before_its_end(database):
    async def attempt(context, config):
        context.log("first", "debug")
        context.token("a")
        context.token("b")
        context.log("second", "shouting")
        context.token("!")  # no secret value begins like that
        context.progress(0.25, "quarter")
        context.progress(0.26)  # too soon after the last
        context.progress(float("nan"))
        context.progress(2.0, "done")
        context.token("d")
        return Done()

    row, _, events = await run(database, Step(attempt))
    assert row["status"] == "COMPLETED"
    said = [(event["type"], event["data"]) for event in events if event["step_id"] == "a"]
    assert said[1:-1] == [
        ("step_log", {"level": "debug", "message": "first"}),
        ("token_delta", {"text": "ab"}),
        ("step_log", {"level": "info", "message": "second"}),
        ("token_delta", {"text": "!"}),
        ("step_progress", {"fraction": 0.25, "message": "quarter"}),
        ("step_progress", {"fraction": 1.0, "message": "done"}),
        ("token_delta", {"text": "d"}),
    ]
    assert (said[0][0], said[-1][0]) == ("step_started", "step_completed")


async def test_tokens_are_gathered_and_no_word_is_lost(database):
    words = [f"{number} " for number in range(3000)]

    async def attempt(context, config):
        for number, word in enumerate(words):
            context.token(word)
            if number % 100 == 0:
                await asyncio.sleep(0)
        return Done()

    _, _, events = await run(database, Step(attempt))
    deltas = of_type(events, "token_delta")
    assert "".join(event["data"]["text"] for event in deltas) == "".join(words)
    first, last = deltas[0]["timestamp"], deltas[-1]["timestamp"]
    assert len(deltas) <= 2 + (last - first).total_seconds() / 0.1


async def test_what_is_said_is_there_while_the_step_still_runs(database):
    free = asyncio.Event()

    async def attempt(context, config):
        context.token("so far")
        await free.wait()
        return Done()

    async with engine(database, types={"test": Step(attempt)}) as running:
        execution_id = await running.submit({"id": "a", "type": "test"})
        async with asyncio.timeout(10):
            while "token_delta" not in await running.event_types(execution_id):
                pass
        assert await running.step_statuses(execution_id) == {"a": "RUNNING"}
        free.set()
        await running.finish(execution_id)


async def test_words_from_a_thread_arrive_too(database):
    def work(context):
        context.log("from a thread")
        context.token("word")
        return threading.get_ident()

    async def attempt(context, config):
        return Done(await asyncio.to_thread(work, context) != threading.get_ident())

    row, step, events = await run(database, Step(attempt))
    assert (row["status"], step["output"]) == ("COMPLETED", "true")
    assert [event["data"] for event in of_type(events, "step_log", "token_delta")] == [
        {"level": "info", "message": "from a thread"}, {"text": "word"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [b"bytes", {"nan": float("nan")}, "\ud800", "\x00", {"long": "x" * ARGUMENTS_LIMIT}, {1: 2}]
)
async def test_saying_something_odd_never_fails_the_step(database, arguments):
    async def attempt(context, config):
        context.tool_call("tool\x00\ud800", arguments)
        context.log("NUL \x00 and surrogate \ud800")
        context.log(object(), object())
        context.token("\x00\ud800")
        context.log("x" * 5000)
        return Done()

    row, _, events = await run(database, Step(attempt))
    assert row["status"] == "COMPLETED", row["error"]
    assert len(of_type(events, "tool_call", "step_log", "token_delta")) == 5
    assert max(len(str(event["data"])) for event in events) < 2200


async def test_a_flood_of_words_is_cut_and_says_so(database, monkeypatch):
    monkeypatch.setattr(driver_module, "SAID_LIMIT", 10)

    async def attempt(context, config):
        for number in range(25):
            context.log(str(number))
        return Done()

    row, _, events = await run(database, Step(attempt))
    assert row["status"] == "COMPLETED"
    messages = [event["data"]["message"] for event in of_type(events, "step_log")]
    assert messages[:10] == [str(number) for number in range(10)]
    assert messages[10:] == ["15 further messages came too fast and were not kept"]


async def test_many_large_outputs_at_once_are_recorded_in_several_commits(database, monkeypatch):
    monkeypatch.setattr(driver_module, "OUTCOME_BYTES", 2500)
    names = [f"s{number}" for number in range(10)]
    inside, free = [], asyncio.Event()

    async def attempt(context, config):
        inside.append(1)
        if len(inside) == len(names):
            free.set()
        await free.wait()
        return Done("x" * 900)

    async with engine(database, types={"test": Step(attempt)}) as running:
        row = await running.run(*({"id": name, "type": "test"} for name in names))
        assert row["status"] == "COMPLETED"
        assert row["write_no"] == 1 + 4


async def test_the_idempotency_key_is_the_same_for_the_same_work_only(database):
    keys = []

    async def attempt(context, config):
        keys.append((context.step_id, config["n"], context.idempotency_key))
        if context.attempt == 1:
            raise StepError("again")
        return Done()

    async with engine(database, types={"test": Step(attempt, retry=FAST)}) as running:
        for value in (1, 2):
            await running.run(
                {"id": "a", "type": "test", "with": {"n": "${{ input }}"}},
                {"id": "b", "type": "test", "with": {"n": "${{ input }}"}},
                value=value,
            )
    assert len(keys) == 8
    assert len(set(keys)) == len({key for _, _, key in keys}) == 4
