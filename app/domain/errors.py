"""The error tree. Errors carry a stable code and data, never HTTP.

StepstreamError
├── Problems              a document with every problem found in it, each with code and JSON pointer
├── NotFound              not there, or another organisation's
├── Conflict              the state of the thing forbids it
├── Unauthenticated       no credential, or none we accept
├── Forbidden             known, but not allowed
├── Unavailable           a dependency is down or busy; trying again may work
└── StepError             a step attempt failed; carries what the retry decision needs
"""

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
    seen: set[int] = set()
    while error.__cause__ is not None and id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__
    return error


def failure_of(error: BaseException) -> Failure:
    """What to record for an exception out of a step: its first cause, with the code if it has one."""
    cause = first_cause(error)
    if isinstance(cause, StepError):
        return Failure(cause.error_code, clean_text(cause.detail), cause.retryable, cause.retry_after)
    text = str(cause) or "no message"
    return Failure("step_error", clean_text(f"{type(cause).__name__}: {text}"))
