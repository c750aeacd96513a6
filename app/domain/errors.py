"""The error tree. Errors carry a stable code and data, never HTTP.

StepstreamError
├── Problems              a document with every problem found in it, each with code and JSON pointer
├── NotFound              not there, or another organisation's
├── Conflict              the state of the thing forbids it
├── Unauthenticated       no credential, or none we accept
├── Forbidden             known, but not allowed
├── Unavailable           a dependency is down or busy; trying again may work
├── Throttled             too often or too much of it; trying again later works
└── StepError             a step attempt failed; carries what the retry decision needs
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

MAX_MESSAGE = 2_000
MAX_PROBLEMS = 50


def clean_text(text: str, limit: int = MAX_MESSAGE) -> str:
    """Text that Postgres and JSON both store: no NUL, no lone surrogates, at most `limit` characters."""
    storable = text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    return storable if len(storable) <= limit else storable[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document: a stable `code`, a sentence, and where (RFC 6901 pointer)."""

    code: str
    detail: str
    pointer: str = ""


class StepstreamError(Exception):
    """Root of the tree. `code` is part of the API contract."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.error_code = code or self.code


class Problems(StepstreamError):
    """A request that is readable but not valid; `problems` holds everything found, at most 50."""

    code = "validation_error"

    def __init__(self, detail: str, problems: list[Problem], *, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.problems = problems[:MAX_PROBLEMS]


class NotFound(StepstreamError):
    code = "not_found"


class Conflict(StepstreamError):
    code = "invalid_state"


class Unauthenticated(StepstreamError):
    code = "invalid_token"


class Forbidden(StepstreamError):
    code = "insufficient_scope"


class Unavailable(StepstreamError):
    """A dependency did not answer; `retry_after` is in seconds."""

    code = "database_unavailable"

    def __init__(self, detail: str, *, code: str | None = None, retry_after: int = 1) -> None:
        super().__init__(detail, code=code)
        self.retry_after = retry_after


class Throttled(StepstreamError):
    """Too often, or too many at once; `retry_after` is in seconds."""

    code = "rate_limited"

    def __init__(self, detail: str, *, retry_after: int, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.retry_after = retry_after


class ConnectionLost(Unavailable):
    """The connection broke while it was used; a new one may be had at once."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step or an execution failed, as recorded: code, sentence, and what the retry decision needs.

    `retry_after` is the least delay in seconds that the other side asked for.
    """

    code: str
    message: str
    retryable: bool = True
    retry_after: float | None = None


class StepError(StepstreamError):
    """Raised by a step to fail its attempt with a code a person can look up."""

    code = "step_error"

    def __init__(
        self, message: str, *, code: str | None = None, retryable: bool = True, retry_after: float | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retryable = retryable
        self.retry_after = retry_after


def first_cause(error: BaseException) -> BaseException:
    """The error that started it: the end of the explicit `raise … from …` chain."""
    *_, start = _causes(error, implicit=False)
    return start


def failure_of(error: BaseException, told: Callable[[str], str] = clean_text) -> Failure:
    """What to record for an exception out of a step: the first cause with a code, else the start of `raise … from`.

    `told` makes of its words what may be kept.
    """
    coded = [cause for cause in _causes(error, implicit=True) if isinstance(cause, StepError)]
    if coded:
        first = coded[-1]
        return Failure(first.error_code, told(first.detail), first.retryable, first.retry_after)
    start = first_cause(error)
    return Failure("step_error", told(f"{type(start).__name__}: {_said_by(start)}"))


def _causes(error: BaseException, *, implicit: bool) -> Iterator[BaseException]:
    """An error and what led to it, nearest first; `implicit`: also what was being handled when it was raised."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        elif cause.__cause__ is None and implicit and not cause.__suppress_context__:
            cause = cause.__context__
        else:
            cause = cause.__cause__


def _said_by(error: BaseException) -> str:
    try:
        return str(error) or "no message"
    except Exception:  # noqa: BLE001 - the exception is another package's, and so is its `__str__`
        return "no message"
