"""The net under the doorbell: once in a while, compare what subscribers were sent with what the log holds.

One query a tick for all followed executions of this process, so that a lost notification costs a subscriber a second.
"""

from app.engine.ports import EventLog
from app.engine.service import Service
from app.streaming.hub import Hub


class Poller:
    """Tells the hub about executions whose log has moved without this process noticing."""

    def __init__(self, hub: Hub, log: EventLog, interval: float) -> None:
        self._hub = hub
        self._log = log
        self._seen: dict[str, int] = {}
        self.service = Service("stream-poller", self._look, interval)

    async def _look(self) -> None:
        followed = self._hub.followed
        if not followed:
            self._seen.clear()
            return
        heads = await self._log.heads(followed)
        for execution_id, head in heads.items():
            if head > self._seen.get(execution_id, 0) and not self._hub.caught_up(execution_id, head):
                self._hub.moved([execution_id])
        self._seen = dict(heads)
