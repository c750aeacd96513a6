"""What went wrong, in a line and without a traceback; STEPSTREAM_DEBUG=1 shows where."""

import os
import traceback

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from app.domain.errors import Problems, StepstreamError, Unavailable, first_cause
from app.settings import SettingsError


class CommandFailed(StepstreamError):
    """A command cannot do what it was asked to; the message says what to do about it."""

    code = "command_failed"


def report(error: Exception) -> None:
    """Say on stderr why a command failed."""
    if os.environ.get("STEPSTREAM_DEBUG") == "1":
        traceback.print_exception(error)
    console = Console(stderr=True, highlight=False)
    # On a terminal wrapped between words, in a log file unbroken.
    console.print(Text.assemble(("Error: ", "bold red"), explain(error)), soft_wrap=not console.is_terminal)


def explain(error: Exception) -> str:
    """The sentence for a person; for what is nobody's mistake but ours, also how to find out more."""
    match error:
        case Problems():
            return "\n".join([error.detail, *(f"  {each.pointer or '/'}: {each.detail}" for each in error.problems)])
        case Unavailable() if isinstance(cause := first_cause(error), OSError) and str(cause) not in error.detail:
            return f"{error.detail} ({cause})"
        case StepstreamError():
            return error.detail
        case OSError() if error.filename:
            return f"{error.filename}: {error.strerror}"
        case SettingsError() | OSError():
            return str(error)
        case ValidationError() if error.title == "Settings":
            return "\n".join(f"{_variable(each['loc'])}: {each['msg']}" for each in error.errors(include_input=False))
        case _:
            return f"Unexpected {type(error).__name__}: {error}. Set STEPSTREAM_DEBUG=1 to see where it comes from"


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]).upper() if location else "The settings"
    return name if name.startswith("STEPSTREAM_") or name.endswith("_URL") or " " in name else f"STEPSTREAM_{name}"
