"""The doorbell between processes: LISTEN on a connection of its own, made anew whenever it dies.

A ring only wakes; what happened is read from the tables. After a reconnect everything rings, because anything may have
been missed, and whoever must not miss anything polls besides.
"""

from collections.abc import Callable, Sequence

import asyncpg
import structlog

from app.db.errors import translated
from app.db.link import Connect, hang_up
from app.engine.ports import Channel
from app.engine.service import Service

PREFIX = "stepstream_"
CHECK_SECONDS = 5.0

log = structlog.get_logger("doorbell")

Callback = Callable[[Sequence[str]], None]


class PostgresDoorbell:
    """Implements `app.engine.ports.Doorbell`. Payloads are `sender:id,id`; what `sender` itself rang is ignored."""

    def __init__(self, connect: Connect, sender: str) -> None:
        self._connect = connect
        self._sender = sender
        self._callbacks: dict[str, list[Callback]] = {"events": [], "inbox": [], "work": []}
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self.service = Service("doorbell", self._keep_listening, CHECK_SECONDS)

    def on_ring(self, channel: Channel, callback: Callback) -> None:
        self._callbacks[channel].append(callback)

    async def close(self) -> None:
        await self.service.stop()
        if self._connection is not None:
            await hang_up(self._connection)

    async def _keep_listening(self) -> None:
        if self._connection is not None and not self._connection.is_closed():
            await self._probe(self._connection)
            return
        with translated():
            self._connection = await self._listening()
        for callbacks in self._callbacks.values():
            _call(callbacks, [])

    async def _listening(self) -> "asyncpg.Connection[asyncpg.Record]":
        """A new connection that hears every channel; one that hears only some would pass for whole."""
        connection = await self._connect()
        try:
            for channel in self._callbacks:
                await connection.add_listener(PREFIX + channel, self._rang)
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(lambda _: self.service.wake())
        return connection

    async def _probe(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """A dead network path shows only when something is sent."""
        try:
            await connection.fetchval("SELECT 1", timeout=CHECK_SECONDS)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            log.warning("doorbell_lost", error=repr(error))
            connection.terminate()
            self._connection = None
            self.service.wake()

    def _rang(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        sender, _, ids = str(payload).partition(":")
        if sender != self._sender:
            _call(self._callbacks[channel.removeprefix(PREFIX)], [part for part in ids.split(",") if part])


def _call(callbacks: Sequence[Callback], ids: Sequence[str]) -> None:
    for callback in callbacks:
        try:
            callback(ids)
        except Exception:
            log.exception("doorbell_callback_failed")
