"""Structured logs: JSON lines, or the human form `[LEVEL] [execution] [scope] message`."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, Protocol, TextIO, TypeAlias

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_HEAD = ("execution_id", "scope", "level", "event", "timestamp", "exception")
_STAMP = structlog.processors.TimeStamper(fmt="iso", utc=True)

_run = structlog.get_logger("run")

Renderer: TypeAlias = Callable[[WrappedLogger, str, EventDict], str]


class Line(Protocol):
    """What a run says: `level` is that of the log, `scope` the workflow or a step."""

    @property
    def level(self) -> str: ...
    @property
    def scope(self) -> str: ...
    @property
    def message(self) -> str: ...


def configure_logs(form: Literal["human", "json"], level: str, stream: TextIO | None = None) -> None:
    """Set up structlog, and route the standard library's loggers through it. Lines go to stderr, or to a stream."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _STAMP,
        structlog.processors.format_exc_info,
    ]
    global _run_log  # noqa: PLW0603 - as much one of the process as what structlog is configured to
    renderer = human_line if form == "human" else json_line
    _run_log = _RunLog(stream or sys.stderr, renderer, _LEVELS[level])
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    for chatty in ("httpx", "httpcore", "openai", "alembic", "uvicorn.access", "asyncio"):
        logging.getLogger(chatty).setLevel(max(_LEVELS[level], logging.WARNING))


def json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """One JSON object."""
    try:
        return orjson.dumps(event, default=repr).decode()
    except TypeError:  # text that is no Unicode, a number of more than 64 bits, a key that is no text
        return json.dumps(event, default=repr)


def human_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """`[INFO] [exec_…] [workflow] message key=value`; without an execution the second field is a dash."""
    rest = " ".join(f"{key}={value}" for key, value in event.items() if key not in _HEAD and key != "logger")
    head = f"[{str(event.get('level', 'info')).upper()}] [{event.get('execution_id') or '-'}]"
    scope = event.get("scope") or event.get("step_id") or ("workflow" if event.get("execution_id") else "server")
    line = f"{head} [{scope}] {event.get('event', '')} {rest}".rstrip()
    return f"{line}\n{event['exception']}" if event.get("exception") else line


class _RunLog:
    """Where the lines of runs go: each is one dictionary and one rendering, those of one turn of the loop have one time
    and are one write.

    The way through structlog and logging takes twenty times as long, and a run of three steps has nine lines.
    """

    def __init__(self, stream: TextIO, renderer: Renderer, threshold: int) -> None:
        self._stream = stream
        self._renderer = renderer
        self.threshold = threshold
        self._unwritten: list[str] = []
        self._moment = ""

    def add(self, execution_id: str, lines: Sequence[Line]) -> None:
        """Write these lines, by the next turn of the loop."""
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self.write)
            self._moment = _STAMP(None, "", {})["timestamp"]
        self._unwritten += [self._text(execution_id, line) for line in lines]

    def write(self) -> None:
        """Write what has gathered; a closed log fails no run."""
        text = "".join(self._unwritten)
        self._unwritten.clear()
        with suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()

    def _text(self, execution_id: str, line: Line) -> str:
        event = {
            "execution_id": execution_id,
            "scope": line.scope,
            "event": line.message,
            "level": line.level,
            "timestamp": self._moment,
        }
        return self._renderer(None, line.level, event) + "\n"


_run_log: _RunLog | None = None


def is_heard(level: str | None) -> bool:
    """Whether a line of a run at this level is written at all."""
    return level is not None and (_run_log is None or _LEVELS[level] >= _run_log.threshold)


def log_run(execution_id: str, lines: Sequence[Line]) -> None:
    """Log what an execution says, in order, as any other lines are logged; from within the event loop.

    All of it is written: whoever makes lines asks `is_heard` before.
    """
    if _run_log is not None:
        _run_log.add(execution_id, lines)
        return
    for line in lines:  # nobody has configured logs: whoever has configured structlog gets them
        getattr(_run, line.level)(line.message, execution_id=execution_id, scope=line.scope)
