"""One attempt of one step: its time limit, its cancellation, and how it ended."""

import asyncio
import hashlib
import math
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import structlog

from app import clock
from app.crashpoints import crashpoint
from app.domain import events
from app.domain.compiled import CompiledStep
from app.domain.durations import LONGEST
from app.domain.errors import Failure, StepError, Unavailable, clean_text, failure_of
from app.domain.events import EventData
from app.domain.jsontext import JSON, NotJson, decode, encode
from app.domain.scrubbing import Scrubber
from app.domain.step_state import Aborted, Failed, Outcome, Parked, Slept, Succeeded
from app.domain.steps import NO_USAGE, Done, Sleep, Usage
from app.domain.waits import Await
from app.engine.children import ChildRequest, Turn
from app.engine.ports import CachedResult, ResultCache
from app.engine.step_types import Run

DELTA_SECONDS = 0.1
ARGUMENTS_LIMIT = 16_384
"""Characters of a tool call's arguments that an event holds; more is shown cut, as text."""

TRACE_LIMIT = 8_000
"""Characters of a stack trace that are kept."""

log = structlog.get_logger("engine")

Say = Callable[[str, str, EventData], None]
"""Adds an event: step id or item path, type, data."""

StartChild = Callable[[Turn, ChildRequest], Awaitable[str]]
"""Starts an execution for a step; its id."""


@dataclass(frozen=True, slots=True)
class OutputRules:
    """What happens to whatever a step gives or says before anything else sees it: secret values are cut out of it, and
    it gets a size that can be kept."""

    max_bytes: int
    scrubber: Scrubber = field(default_factory=Scrubber)

    def with_own_scrubber(self) -> "OutputRules":
        """The same, with a scrubber that may learn more."""
        return replace(self, scrubber=copy(self.scrubber))

    def message(self, text: str) -> str:
        """Text for people: scrubbed, storable, of bounded length."""
        return clean_text(self.words(str(text)))

    def words(self, text: str) -> str:
        """Text of any length: scrubbed, storable."""
        return self.scrubber.text(clean_text(text, len(text)))

    def arguments(self, value: JSON) -> JSON:
        """Any value as JSON that an event can hold."""
        try:
            text = self.scrubber.json(encode(value))
            return decode(text) if len(text) <= ARGUMENTS_LIMIT else clean_text(text)
        except NotJson:
            return self.message(repr(value))

    def text(self, value: JSON) -> str:
        """The JSON text to record; raises NotJson or OutputTooLarge."""
        text = self.scrubber.json(encode(value))
        if len(text) > self.max_bytes or len(text.encode()) > self.max_bytes:
            raise OutputTooLarge(f"The output is larger than {self.max_bytes} bytes")
        return text


class OutputTooLarge(ValueError):
    """An output over the limit."""


@dataclass(frozen=True, slots=True)
class RunScope:
    """What the attempts of one run share: who they are part of, and whom they speak to. Made on the event loop."""

    execution_id: str
    org_id: str
    root_id: str
    hops: int
    rules: OutputRules
    now: Callable[[], datetime]
    say: Say
    start_child: StartChild
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    thread: int = field(default_factory=threading.get_ident)
    meter: threading.Lock = field(default_factory=threading.Lock)


class AttemptContext:
    """The StepContext of one attempt with a resolved `with`. Safe to use from the step's own threads."""

    def __init__(self, run: RunScope, turn: Turn, attempt: int, config_text: str) -> None:
        self.step_id = turn.path
        self.attempt = attempt
        self.cancelled = False
        self.usage = NO_USAGE
        self._run = run
        self._turn = turn
        self._config_text = config_text
        self._text: list[str] = []
        self._flush_timer: asyncio.TimerHandle | None = None
        self._last_progress = 0.0
        self._closed = False

    @property
    def execution_id(self) -> str:
        return self._run.execution_id

    @property
    def org_id(self) -> str:
        return self._run.org_id

    @property
    def hops(self) -> int:
        return self._run.hops

    @cached_property
    def idempotency_key(self) -> str:
        return idempotency_key(self._run.root_id, self._turn, self._config_text)

    def now(self) -> datetime:
        return self._run.now()

    def new_id(self, kind: str) -> str:
        return clock.new_id(kind)

    async def start_execution(self, workflow_id: str, value: JSON, *, waits: bool) -> str:
        return await self._run.start_child(self._turn, ChildRequest(workflow_id, value, waits))

    def spend(self, *, tokens: int = 0, cost: float = 0.0) -> None:
        if not (tokens >= 0 and 0 <= cost < math.inf):
            raise ValueError("what is spent is a number of tokens and of US dollars, neither below 0")
        with self._run.meter:
            self.usage += Usage(tokens, cost)

    def log(self, message: str, level: str = "info") -> None:
        known = level if level in {"debug", "info", "warning", "error"} else "info"
        self._post("step_log", events.StepLog(level=known, message=self._run.rules.message(message)))  # type: ignore[typeddict-item]

    def progress(self, fraction: float, message: str = "") -> None:
        at = clock.monotonic()
        bounded = min(1.0, max(0.0, fraction))  # in this order NaN becomes 0
        if at - self._last_progress < DELTA_SECONDS and bounded < 1:
            return
        self._last_progress = at
        self._post("step_progress", events.StepProgress(fraction=bounded, message=self._run.rules.message(message)))

    def token(self, text: str) -> None:
        self._on_loop(self._gather, text)

    def tool_call(self, name: str, arguments: JSON) -> None:
        known = events.ToolCall(name=self._run.rules.message(name), arguments=self._run.rules.arguments(arguments))
        self._post("tool_call", known)

    def close(self) -> None:
        """Send what is gathered; whatever is said later is dropped."""
        self._flush(last=True)
        self._closed = True

    def _post(self, kind: str, data: EventData) -> None:
        self._on_loop(self._deliver, kind, data)

    def _on_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        if threading.get_ident() == self._run.thread:
            callback(*arguments)
        else:
            self._run.loop.call_soon_threadsafe(callback, *arguments)

    def _deliver(self, kind: str, data: EventData) -> None:
        if not self._closed:
            self._flush()
            self._run.say(self.step_id, kind, data)

    def _gather(self, text: str) -> None:
        self._text.append(text)
        if self._flush_timer is None:
            self._flush_timer = self._run.loop.call_later(DELTA_SECONDS, self._flush)

    def _flush(self, *, last: bool = False) -> None:
        """Tell what is gathered, but for an end that may be the beginning of a secret value."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if not self._text or self._closed:
            return
        text = self._run.rules.words("".join(self._text))
        told = len(text) if last else len(text) - self._run.rules.scrubber.held(text)
        self._text = [text[told:]] if told < len(text) else []
        if told:
            self._run.say(self.step_id, "token_delta", events.TokenDelta(text=text[:told]))


def idempotency_key(root_id: str, turn: Turn, config_text: str) -> str:
    """The same over retries, crashes and replays of one round of a step, or of one item, with one resolved `with`.

    What is done again on purpose is to happen again: it gets another.
    """
    named = f"{root_id}\x00{turn.path}\x00{turn.again}.{turn.iteration}\x00{config_text}"
    return hashlib.sha256(named.encode()).hexdigest()[:40]


async def run_cached(
    cache: ResultCache, key: str, step: CompiledStep, context: AttemptContext, run: Callable[[], Awaitable[Outcome]]
) -> Outcome:
    """An earlier result under this key, else that of a new attempt, which is kept. The cache never fails a step."""
    try:
        if (kept := await cache.get(context.org_id, key)) is not None:
            return Succeeded(decode(kept.output_text), kept.output_text, kept.ports, note="cached")
    except Unavailable as error:
        log.warning("cache_unavailable", execution_id=context.execution_id, reason=error.detail)
    outcome = await run()
    if isinstance(outcome, Succeeded) and step.definition.cache is not None:
        try:
            result = CachedResult(outcome.output_text, outcome.ports)
            await cache.put(context.org_id, key, result, step.definition.cache.ttl)
        except Unavailable as error:
            log.warning("cache_unavailable", execution_id=context.execution_id, reason=error.detail)
    return outcome


async def run_attempt(
    step: CompiledStep, run: Run, context: AttemptContext, config: Mapping[str, Any], rules: OutputRules
) -> Outcome:
    """Make the attempt and say how it ended; only a cancellation from outside leaves it as an exception."""
    crashpoint("before_effect")
    outcome = await _made(step, run, context, config, rules)
    crashpoint("after_effect_before_record")
    return charged(outcome, context)


def charged(outcome: Outcome, context: AttemptContext) -> Outcome:
    """The outcome with what the attempt consumed."""
    if context.usage is NO_USAGE or not isinstance(outcome, Succeeded | Failed | Aborted):
        return outcome
    return outcome._replace(usage=context.usage)


async def _made(
    step: CompiledStep, run: Run, context: AttemptContext, config: Mapping[str, Any], rules: OutputRules
) -> Outcome:
    try:
        return _outcome(await run(context, config), rules)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        message = f"Step '{step.id}' raised CancelledError, though nobody cancelled it"
        return _failed(Failure("step_error", message))
    except NotJson as error:
        message = rules.message(f"The output of step '{step.id}' is not JSON: {error}")
        return _failed(Failure("output_not_json", message, retryable=False))
    except OutputTooLarge as error:
        return _failed(Failure("output_too_large", f"Step '{step.id}': {error}", retryable=False))
    except (StepError, TimeoutError) as error:
        return _failed(failure_of(error, rules.message))
    except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001 - whatever a step raises is that step's failure
        return _failed(failure_of(error, rules.message), _trace(error, rules))
    finally:
        context.close()


def timed_out(step: CompiledStep) -> Failed:
    """The outcome of an attempt that overran its time."""
    message = f"Step '{step.id}' did not end within its timeout of {step.timeout:g} s"
    return Failed(Failure("step_timeout", message), clock.jitter())


def _outcome(result: Done | Sleep | Await, rules: OutputRules) -> Outcome:
    if isinstance(result, Await):
        return Parked(result.awaited, None if result.seconds is None else _seconds(result.seconds))
    text = rules.text(result.output)
    output = decode(text)
    match result:
        case Sleep():
            return Slept(_seconds(result.seconds), output, text)
        case Done():
            agent = None if result.agent_result is None else decode(rules.text(result.agent_result))
            return Succeeded(output, text, result.ports, agent_result=agent)


def _failed(failure: Failure, trace: str | None = None) -> Failed:
    retry_after = None if failure.retry_after is None else _seconds(failure.retry_after)
    return Failed(replace(failure, retry_after=retry_after), clock.jitter(), trace)


def _trace(error: BaseException, rules: OutputRules) -> str:
    """The stack of an unexpected error, its end if it is long: that is where it was raised."""
    return rules.words("".join(traceback.format_exception(error)))[-TRACE_LIMIT:]


def _seconds(wish: float) -> float:
    """A wait that time can be added to, whatever a step or a server asked for."""
    return min(LONGEST, max(0.0, wish))
