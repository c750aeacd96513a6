"""The contract between the engine and a step type: what it is given, what it may do, how it ends."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from app.domain.errors import Problem
from app.domain.jsontext import JSON
from app.domain.steps import Done, Sleep, StepSpec
from app.domain.waits import Await


class StepContext(Protocol):
    """What a running attempt knows and may say. Saying is never awaited on the database and never fails the step."""

    @property
    def execution_id(self) -> str: ...

    @property
    def step_id(self) -> str: ...

    @property
    def org_id(self) -> str: ...

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""

    @property
    def idempotency_key(self) -> str:
        """The same over retries and crashes of this step with this resolved `with`."""

    @property
    def hops(self) -> int:
        """How many runs led to this one by HTTP."""

    @property
    def cancelled(self) -> bool:
        """True once the run is being stopped; long loops in threads look at it."""

    def now(self) -> datetime:
        """The time of the record, which is the database's: that of the host may jump."""

    def new_id(self, kind: str) -> str:
        """A new id of this kind, such as `appr`."""

    async def start_execution(self, workflow_id: str, value: JSON, *, waits: bool) -> str:
        """Start an execution of another workflow and give its id: the same one if the attempt is made again by another
        worker. With `waits` its end reaches this step as a letter.

        Raises StepError if it cannot start.
        """

    def spend(self, *, tokens: int = 0, cost: float = 0.0) -> None:
        """Count what was consumed, in US dollars, whether or not the attempt succeeds. Raises ValueError below 0."""

    def log(self, message: str, level: str = "info") -> None:
        """A `step_log` event; level is debug, info, warning or error."""

    def progress(self, fraction: float, message: str = "") -> None:
        """A `step_progress` event, at most ten a second; fraction is 0 to 1."""

    def token(self, text: str) -> None:
        """A piece of a model's answer, gathered into `token_delta` events of about 100 ms."""

    def tool_call(self, name: str, arguments: JSON) -> None:
        """A `tool_call` event."""


Run: TypeAlias = Callable[[StepContext, Mapping[str, Any]], Awaitable[Done | Sleep | Await]]
"""Makes an attempt with a resolved `with`, as `StepType.run` does."""


class StepType(Protocol):
    """One step type of the library. Instances are stateless and shared by all executions."""

    @property
    def spec(self) -> StepSpec: ...

    def check(self, config: Mapping[str, Any]) -> list[Problem]:
        """Problems of `with` that the schema cannot say, leaving alone values that are still templates.

        Pointers are relative to `with`.
        """

    def missing_setup(self, config: Mapping[str, Any]) -> list[Problem]:
        """What the surroundings lack for this `with` to work here and now, such as a model's key, said in words.

        Asked before each start; it does not make the definition itself wrong.
        """

    async def run(self, context: StepContext, config: Mapping[str, Any]) -> Done | Sleep | Await:
        """One attempt with the resolved `with`. Fails by raising StepError (any other exception is `step_error`)."""
