"""Serving HTTP and WebSocket inside a block: ready when it begins, drained when it ends."""

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn

from app.cli.failures import CommandFailed
from app.process import descriptors, settle_garbage_collector

log = structlog.get_logger("server")

if TYPE_CHECKING:  # they take a second to load, which `up` spends while Postgres starts
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from app.settings import Settings
    from app.wiring.runtime import Runtime

STREAM_GRACE = 5
"""Seconds that open requests and streams get to end once the server stops."""

_READY_POLL = 0.05
_SERVING = (None, "storage_full")
"""A full disk keeps nobody from reading, nor from making room."""
_BACKLOG = 2048
RESERVED_DESCRIPTORS = 128
"""Those that clients' connections must leave to the database, to steps and to files."""


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: signals belong to the process, which has more to stop than this."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone; uvicorn would raise a captured one again and end the process half-stopped."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        self.listening.set()


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, not listening yet, so that a busy port is known before anything else starts.

    Port 0 takes any free one. Raises CommandFailed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _cannot_listen(host, port, error) from error
    return bound


def port_of(bound: socket.socket) -> int:
    """The port a socket is bound to."""
    return int(bound.getsockname()[1])


def url_of(host: str, port: int) -> str:
    """Where a browser on this machine finds the server."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - read, not bound
    return f"http://{f'[{shown}]' if ':' in shown and not shown.startswith('[') else shown}:{port}"


@asynccontextmanager
async def serving(app: "FastAPI", bound: socket.socket) -> AsyncIterator["Runtime"]:
    """Serve the app on the socket inside the block, which begins when /health/ready answers 200.

    Leaving the block drains: no new work, streams end with their cursor, running executions get the drain budget.
    """
    async with app.router.lifespan_context(app):
        runtime: Runtime = app.state.runtime
        _listen(bound)
        server = Server(configuration(app, app.state.settings))
        task = asyncio.create_task(server.serve(sockets=[bound]), name="http-server")
        try:
            await _first_of(server.listening.wait(), task)
            await _until_ready(runtime)
            settle_garbage_collector()
            yield runtime
        finally:
            # Still listening, so that clients are told where they stand instead of finding nobody.
            await runtime.drain()
            server.should_exit = True
            await task


async def _until_ready(runtime: "Runtime") -> None:
    told = None
    while (reason := (await runtime.services.health.readiness()).reason) not in _SERVING:
        if reason != told:
            told = reason
            log.warning("not ready yet", reason=told)
        await asyncio.sleep(_READY_POLL)


def _listen(bound: socket.socket) -> None:
    # Two processes can bind a port at the same moment; only one gets to listen, and the event loop would not say which.
    try:
        bound.listen(_BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _cannot_listen(host, port, error) from error


def configuration(app: "ASGIApp", settings: "Settings") -> uvicorn.Config:
    """How uvicorn serves an app: by the guarded protocol, within the limits of the settings."""
    from app.api.protocol import GuardedProtocol, Limits, Lobby

    limits = Limits(
        head_seconds=settings.header_timeout,
        body_seconds=settings.body_timeout,
        hosts=frozenset(host.lower() for host in settings.allowed_hosts),
        max_connections=max(10, min(settings.max_connections, descriptors() - RESERVED_DESCRIPTORS)),
        max_bytes=settings.max_request_bytes,
    )
    protocol: Any = partial(GuardedProtocol, lobby=Lobby(limits))
    return uvicorn.Config(
        app,
        http=protocol,
        ws="websockets-sansio",
        ws_max_size=4096,
        ws_per_message_deflate=False,
        backlog=_BACKLOG,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_timeout,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=STREAM_GRACE,
    )


async def _first_of(awaited: Coroutine[Any, Any, object], task: "asyncio.Task[None]") -> None:
    """Wait until one is done; raises what ended the task, if it was that."""
    waiting = asyncio.ensure_future(awaited)
    await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()


def _cannot_listen(host: str, port: int, error: OSError) -> CommandFailed:
    reason = error.strerror or str(error)
    return CommandFailed(
        f"Cannot listen on {host}:{port} ({reason}). Stop what uses it, or choose another with --port (0: any free one)"
    )
