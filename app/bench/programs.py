"""What runs in a process of its own: the engine without HTTP, the limit, and the limit behind HTTP."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

import orjson
import uvicorn

from app import clock
from app.bench.contestants import RunFailed
from app.bench.limit.execution import Execution
from app.bench.limit.fan_out import make_app as make_fan_out
from app.bench.limit.record import Record
from app.bench.limit.web import make_app
from app.bench.load import RunOne, for_seconds, one_by_one
from app.bench.shapes import SHAPES, Shape
from app.db.urls import driver_url
from app.engine.ports import NewExecution
from app.engine.transition import queued_event_data
from app.process import settle_garbage_collector
from app.services.identity import FIRST_ORG, FIRST_USER
from app.settings import Settings, SettingsError
from app.streaming.waiting import end_of
from app.wiring.runtime import Engine, start_engine

LONGEST_RUN = 120.0
"""Seconds; `for_each` of 10,000 takes a few."""


async def engine(settings: Settings) -> None:
    """Carry out orders by recorder, orchestrator and hub alone."""
    async with AsyncExitStack() as stack:
        running = await start_engine(settings, None, stack)
        await _obey(lambda shape: _run_by_engine(running, shape))


async def limit(settings: Settings) -> None:
    """Carry out orders by the limit."""
    async with AsyncExitStack() as stack:
        record = await Record.open(_database(settings), stack)

        async def run_one(shape: Shape) -> None:
            await (await Execution.accept(record, shape)).run()

        await _obey(run_one)


async def limit_over_http(settings: Settings) -> None:
    """Serve the limit on a free port of this machine; tells the port."""
    await _serve(make_app(_database(settings)))


async def fan_out(_settings: Settings) -> None:
    """Serve the bare fan-out on a free port of this machine; tells the port."""
    await _serve(make_fan_out())


PROGRAMS: dict[str, Callable[[Settings], Awaitable[None]]] = {
    "engine": engine,
    "limit": limit,
    "limit-over-http": limit_over_http,
    "fan-out": fan_out,
}


async def _run_by_engine(engine: Engine, shape: Shape) -> None:
    execution_id, storage = clock.new_id("exec"), engine.storage
    watch = storage.hub.watch_end(execution_id)
    try:
        await engine.orchestrator.accept(
            NewExecution(
                id=execution_id,
                org_id=FIRST_ORG,
                workflow_id=shape.workflow_id,
                workflow_version=1,
                user_id=FIRST_USER,
                input_text="null",
                labels_text="{}",
                priority=0,
                ip_address=None,
                user_agent=None,
                request_id=None,
                queued_event_data=queued_event_data(shape.workflow_id, 1),
                audit_id=clock.new_id("audit"),
            )
        )
        if not await end_of(watch, storage.log, FIRST_ORG, LONGEST_RUN):
            raise RunFailed(f"A run of {shape.name} by the engine did not end")
    finally:
        watch.close()


async def _obey(run_one: RunOne) -> None:
    """Read orders from stdin until it ends, a line of JSON each, and answer each with one on stdout."""
    async for order in _orders():
        shape = SHAPES[order["shape"]]
        if "seconds" in order:
            load = await for_seconds(run_one, shape, order["at_once"], order["seconds"])
        else:
            load = await one_by_one(run_one, shape, order["times"])
        _answer(asdict(load))
        settle_garbage_collector()


async def _orders() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _answer({"ready": True})
    while line := await reader.readline():
        yield orjson.loads(line)


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    sys.stdout.buffer.flush()


async def _serve(app: Any) -> None:
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, log_config=None, access_log=False, log_level="warning", ws_per_message_deflate=False
        )
        serving = asyncio.create_task(uvicorn.Server(config).serve(sockets=[bound]))
        settle_garbage_collector()
        _answer({"port": bound.getsockname()[1]})
        await serving


def _database(settings: Settings) -> str:
    if settings.database_url is None:
        raise SettingsError("The programs of the benchmark need DATABASE_URL")
    return driver_url(settings.database_url.get_secret_value())
