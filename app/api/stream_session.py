"""One WebSocket: sends events with a time limit, listens for the client, re-checks the credential, closes in words.

Close codes: 1000 behind the terminal event, 1003 binary message, 1007 text that is no UTF-8, 1009 message over 4 KiB,
1012 server stops, 4400 unknown message, 4401 credential ended, 4408 reader too slow, 4429 too many messages. The reason
of 1012, 4401 and 4408 ends with the seq to resume from.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.api.strict_json import read_json
from app.api.v1.schemas.control import ControlRequest
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.domain.errors import StepstreamError, Unauthenticated
from app.domain.mail import MailKind
from app.services import Services
from app.streaming.pace import paced
from app.streaming.wire import WireEvent

SUBPROTOCOL = "stepstream.v1"
SEND_SECONDS = 10.0
"""What a reader gets for SENT_AT_ONCE events."""
SENT_AT_ONCE = 32
RECHECK_SECONDS = 10.0
MAX_MESSAGES_PER_RECHECK = 100

log = structlog.get_logger("stream")


class CloseSocket(Exception):
    """End the session with a close code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamSession:
    """Serves one accepted WebSocket until one side ends it."""

    def __init__(self, websocket: WebSocket, services: Services, caller: Caller, execution_id: str, after: int) -> None:
        self._websocket = websocket
        self._services = services
        self._caller = caller
        self._execution_id = execution_id
        self._cursor = after
        self._received = 0

    async def run(self, batches: AsyncGenerator[Sequence[WireEvent], None]) -> None:
        """Send events and listen at the same time; whichever ends first ends the session."""
        sending = asyncio.create_task(self._send_all(batches))
        listening = asyncio.create_task(self._listen())
        try:
            await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, listening):
                task.cancel()
            await asyncio.wait({sending, listening})
        await self._close(self._reason(sending) or self._reason(listening))

    async def _send_all(self, batches: AsyncGenerator[Sequence[WireEvent], None]) -> None:
        pace = paced(batches, RECHECK_SECONDS, self._services.streams.draining)
        loop = asyncio.get_running_loop()
        checked = loop.time()
        try:
            async for batch in pace:
                if loop.time() - checked >= RECHECK_SECONDS:
                    await self._recheck()
                    checked = loop.time()
                for start in range(0, len(batch or ()), SENT_AT_ONCE):
                    await self._send_events((batch or ())[start : start + SENT_AT_ONCE])
        finally:
            await pace.aclose()
        if self._services.streams.draining.is_set():
            raise CloseSocket(1012, f"server stops; resume after {self._cursor}")

    async def _send_events(self, events: Sequence[WireEvent]) -> None:
        async with self._in_time():
            for event in events:
                await self._websocket.send_text(event.text)
                self._cursor = event.seq

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                yield
        except TimeoutError as error:
            raise CloseSocket(4408, f"reader too slow; resume after {self._cursor}") from error

    async def _recheck(self) -> None:
        self._received = 0
        try:
            principal = await self._services.authenticator.recheck(self._caller.principal)
        except Unauthenticated as error:
            raise CloseSocket(4401, f"credential ended; resume after {self._cursor}") from error
        except StepstreamError:
            return  # the database is away: that is no reason to lose a subscriber
        if not principal.allows(Permission.EXECUTIONS_READ):
            raise CloseSocket(4401, f"permission withdrawn; resume after {self._cursor}")

    async def _listen(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self._received += 1
            if self._received > MAX_MESSAGES_PER_RECHECK:
                raise CloseSocket(4429, "too many messages")
            text = message.get("text")
            if text is None:
                raise CloseSocket(1003, "send text")
            await self._handle(text)

    async def _handle(self, text: str) -> None:
        try:
            message = read_json(text.encode())
        except StepstreamError:
            message = None
        match message:
            case {"op": "ping", **rest} if not rest:
                async with self._in_time():
                    await self._websocket.send_text('{"op":"pong"}')
            case {"op": "cancel", **rest} if self._caller.principal.allows(Permission.EXECUTIONS_CONTROL):
                await self._cancel(rest)
            case _:
                raise CloseSocket(4400, 'send {"op":"ping"} or {"op":"cancel"}')

    async def _cancel(self, details: object) -> None:
        try:
            reason = ControlRequest.model_validate(details).reason
        except ValidationError:
            raise CloseSocket(4400, 'send {"op":"cancel"}, or a `reason` with it') from None
        try:
            await self._services.control.ask(self._caller, self._execution_id, MailKind.CANCEL, reason)
        except StepstreamError as error:
            raise CloseSocket(4400, error.detail[:100]) from error

    def _reason(self, task: "asyncio.Task[None]") -> CloseSocket | None:
        if task.cancelled():
            return None
        error = task.exception()
        if error is None or isinstance(error, WebSocketDisconnect):
            return None
        if isinstance(error, CloseSocket):
            return error
        log.error("stream_failed", execution_id=self._execution_id, exc_info=error)
        return CloseSocket(1011, f"server failed; resume after {self._cursor}")

    async def _close(self, reason: CloseSocket | None) -> None:
        try:
            async with asyncio.timeout(1):
                await self._websocket.close(reason.code if reason else 1000, reason.reason if reason else None)
        except (RuntimeError, TimeoutError, WebSocketDisconnect, OSError):
            return  # the client is gone
