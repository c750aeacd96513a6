"""The `function` step: calls a Python function that an installed package has registered by name.

Functions are entry points of the group `stepstream.functions`. Coroutine functions are awaited; all others run in
threads of their own, so that one that computes or blocks holds up neither the event loop nor anything else.
"""

import asyncio
import contextvars
import inspect
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeAlias

from pydantic import Field

from app.domain.definition import Document
from app.domain.errors import Problem, StepError
from app.domain.expressions import is_template
from app.domain.jsontext import JSON
from app.domain.steps import Done, Effect, StepSpec
from app.engine.step_types import StepContext
from app.steps.base import THREE_ATTEMPTS, TypedStep, invalid_config
from app.steps.threads import Threads

GROUP = "stepstream.functions"

StepFunction: TypeAlias = Callable[..., Any]
"""Called with `args` as keywords, and with the StepContext if it has a parameter `context`; returns JSON."""

_THREADS = 2 + (os.cpu_count() or 1)
_LINGERING = 64
_NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Function:
    name: str
    call: StepFunction
    signature: inspect.Signature | None

    @property
    def takes_context(self) -> bool:
        parameter = self.signature.parameters.get("context") if self.signature else None
        return parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)

    def mismatch(self, args: Mapping[str, Any]) -> str | None:
        """Why these arguments do not fit, without their values."""
        if self.signature is None:
            return None
        if self.takes_context and "context" in args:
            return f"'{self.name}' gets its `context` from the engine, not from `args`"
        extra = {"context": None} if self.takes_context else {}
        try:
            self.signature.bind(**args, **extra)
        except TypeError as error:
            return f"'{self.name}{_shown(self.signature)}': {error}"
        return None


class FunctionCatalogue:
    """The functions that can be called, by name; each is imported when it is first needed."""

    def __init__(self, functions: Mapping[str, StepFunction | EntryPoint]) -> None:
        self._found = dict(functions)
        self._loaded: dict[str, _Function] = {}

    @classmethod
    def installed(cls) -> "FunctionCatalogue":
        """Those that installed packages register; of two with one name the first on the import path counts."""
        found: dict[str, StepFunction | EntryPoint] = {}
        for entry in entry_points(group=GROUP):
            found.setdefault(entry.name, entry)
        return cls(found)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._found)

    def load(self, name: str) -> _Function:
        """The function of a name; raises StepError `unknown_function`."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> _Function:
        found = self._found.get(name)
        if found is None:
            known = self.names()
            shown = ", ".join(known[:_NAMES_SHOWN]) + (", …" if len(known) > _NAMES_SHOWN else "")
            detail = f"No installed package registers a function '{name[:100]}'; there are: {shown or 'none'}"
            raise StepError(detail, code="unknown_function", retryable=False)
        try:
            call = found.load() if isinstance(found, EntryPoint) else found
        except Exception as error:  # noqa: BLE001 - importing another package can fail in any way
            detail = f"The function '{name}' is registered but cannot be imported: {type(error).__name__}: {error}"
            raise StepError(detail, code="unknown_function", retryable=False) from None
        try:
            signature = inspect.signature(call)
        except (TypeError, ValueError):
            signature = None
        return _Function(name, call, signature)


class FunctionConfig(Document):
    function: str = Field(min_length=1, max_length=200, description="The registered name.")
    args: dict[str, Any] = Field(default_factory=dict, description="Its arguments, by name.")


class FunctionStep(TypedStep[FunctionConfig]):
    """Calls a registered Python function."""

    config_model = FunctionConfig
    spec = StepSpec(
        type="function",
        title="Function",
        description="Calls a Python function registered by an installed package; its result is the output.",
        category="code",
        icon="square-function",
        effect=Effect.IDEMPOTENT,
        config_schema=FunctionConfig.model_json_schema(),
        output_schema={},
        retry=THREE_ATTEMPTS,
        timeout=300.0,
        function_from="function",
    )

    def __init__(self, catalogue: FunctionCatalogue) -> None:
        self._catalogue = catalogue
        self._threads = Threads(_THREADS, _LINGERING)

    def check(self, config: Mapping[str, Any]) -> list[Problem]:
        problems = super().check(config)
        name, args = config.get("function"), config.get("args", {})
        if not isinstance(name, str) or is_template(name):
            return problems
        try:
            function = self._catalogue.load(name)
        except StepError as error:
            return [*problems, Problem(error.error_code, error.detail, "/function")]
        if isinstance(args, Mapping) and not any(map(is_template, args)) and (mismatch := function.mismatch(args)):
            problems.append(Problem("invalid_arguments", mismatch, "/args"))
        return problems

    async def aclose(self) -> None:
        """End the threads that have nothing to do."""
        self._threads.close()

    async def perform(self, context: StepContext, config: FunctionConfig) -> Done:
        function = self._catalogue.load(config.function)
        if mismatch := function.mismatch(config.args):
            raise invalid_config(mismatch)
        if inspect.iscoroutinefunction(function.call):
            result = await _awaited(function, function.call(**_keywords(function, config.args, context)))
        else:
            result = await self._in_thread(function, config.args, context)
            if inspect.isawaitable(result):
                result = await _awaited(function, result)
        return Done(result)

    async def _in_thread(self, function: _Function, args: Mapping[str, Any], context: StepContext) -> Any:
        keywords = _keywords(function, args, ThreadContext(context, asyncio.get_running_loop()))
        return await self._threads.run(partial(contextvars.copy_context().run, _contained, function, keywords))


class ThreadContext:
    """A StepContext for a function in a thread: what it says is handed over to the event loop, in order."""

    def __init__(self, context: StepContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop
        self.execution_id = context.execution_id
        self.step_id = context.step_id
        self.org_id = context.org_id
        self.attempt = context.attempt
        self.hops = context.hops

    @property
    def idempotency_key(self) -> str:
        return self._context.idempotency_key

    @property
    def cancelled(self) -> bool:
        return self._context.cancelled

    def now(self) -> datetime:
        return self._context.now()

    def new_id(self, kind: str) -> str:
        return self._context.new_id(kind)

    async def start_execution(self, workflow_id: str, value: JSON, *, waits: bool) -> str:
        return await self._context.start_execution(workflow_id, value, waits=waits)

    def spend(self, *, tokens: int = 0, cost: float = 0.0) -> None:
        self._context.spend(tokens=tokens, cost=cost)  # from any thread, and counted before the function goes on

    def log(self, message: str, level: str = "info") -> None:
        self._say(self._context.log, message, level)

    def progress(self, fraction: float, message: str = "") -> None:
        self._say(self._context.progress, fraction, message)

    def token(self, text: str) -> None:
        self._say(self._context.token, text)

    def tool_call(self, name: str, arguments: JSON) -> None:
        self._say(self._context.tool_call, name, arguments)

    def _say(self, say: Callable[..., None], *words: Any) -> None:
        # A function that outlives its run may still speak when the loop is gone; nobody listens then.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(say, *words)


def _keywords(function: _Function, args: Mapping[str, Any], context: StepContext) -> dict[str, Any]:
    return {**args, "context": context} if function.takes_context else dict(args)


def _contained(function: _Function, keywords: Mapping[str, Any]) -> Any:
    try:
        return function.call(**keywords)
    except (StopIteration, GeneratorExit, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
        # Carried over to the event loop these would end it, or never arrive.
        raise _ended_by(function, error) from None


async def _awaited(function: _Function, result: Any) -> Any:
    try:
        return await result
    except (SystemExit, GeneratorExit) as error:
        raise _ended_by(function, error) from None


def _ended_by(function: _Function, error: BaseException) -> StepError:
    return StepError(f"The function '{function.name}' raised {type(error).__name__}", code="step_error")


def _shown(signature: inspect.Signature) -> str:
    kept = [
        parameter.replace(annotation=parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != "context"
    ]
    return str(signature.replace(parameters=kept, return_annotation=signature.empty))
