"""Structured logs: JSON lines, or the human form `[LEVEL] [execution] [scope] message`."""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_HEAD = ("execution_id", "scope", "level", "event", "timestamp", "exception")


def configure_logs(form: Literal["human", "json"], level: str) -> None:
    """Set up structlog, and route the standard library's loggers through it. Lines go to stderr."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer = human_line if form == "human" else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
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


def human_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """`[INFO] [exec_…] [workflow] message key=value`; without an execution the second field is a dash."""
    rest = " ".join(f"{key}={value}" for key, value in event.items() if key not in _HEAD and key != "logger")
    head = f"[{str(event.get('level', 'info')).upper()}] [{event.get('execution_id') or '-'}]"
    scope = event.get("scope") or event.get("step_id") or ("workflow" if event.get("execution_id") else "server")
    line = f"{head} [{scope}] {event.get('event', '')} {rest}".rstrip()
    return f"{line}\n{event['exception']}" if event.get("exception") else line
