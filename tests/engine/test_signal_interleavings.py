"""Signals at every moment around their waits: each is used once, by the wait it belongs to, and no wake-up is lost."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app import clock
from app.db.engines import DriverConnection
from app.domain.jsontext import encode
from app.engine.ports import Recorder, RecordResult
from app.engine.transition import Transition
from tests.database import Database
from tests.engine.harness import ORG, Engine, engine, eventually, new_execution, save_workflow

RUNS = 250
SEND = """
WITH sent AS (
  INSERT INTO execution_inbox (id, org_id, execution_id, kind, topic, payload, user_id)
  VALUES ($1, $2, $3, 'signal', $4, $5, 'user_2') RETURNING execution_id)
SELECT pg_notify('stepstream_inbox', ':' || execution_id) FROM sent"""


def wait(step_id: str, *needs: str, **config: Any) -> dict[str, Any]:
    return {"id": step_id, "type": "wait_for_signal", "needs": list(needs), "with": config}


STEPS = (
    wait("first", signal="go"),
    {"id": "between", "type": "set", "needs": ["first"], "with": {"n": 1}},
    wait("second", "between", signal="go"),
    wait("either", "second", any_of=["left", "right"]),
    wait("both", "either", all_of=["left", "right", "more"]),
)
OUTPUT = {
    "go": ["${{ steps.first.output.payload }}", "${{ steps.second.output.payload }}"],
    "either": "${{ steps.either.output.payload }}",
    "both": "${{ steps.both.output.signals }}",
}


class Sender:
    """Sends the signals of one run: each some transitions after the one before, at the latest when the run sleeps."""

    def __init__(self, execution_id: str, chance: random.Random) -> None:
        self.execution_id = execution_id
        self._chance = chance
        signals = [("go", 1), ("go", 2), ("left", 3), ("right", 4), ("left", 5), ("right", 6), ("more", 7)]
        # Any order that keeps those of one name in theirs.
        places = sorted(range(len(signals)), key=lambda _: chance.random())
        names = [signals[place][0] for place in places]
        payloads = {name: [payload for known, payload in signals if known == name] for name in names}
        self.left = [(name, payloads[name].pop(0)) for name in names]
        self.sent: list[tuple[str, int]] = []
        self._draw()

    def _draw(self) -> None:
        self._patience = self._chance.choice([0, 1, 1, 2, 3])
        self._before = self._chance.random() < 0.5

    def due(self, transition: Transition | None, *, before: bool) -> tuple[str, int] | None:
        """The signal to be sent now, before or after a transition is recorded."""
        if not self.left or self._before is not before:
            return None
        self._patience -= 1
        if self._patience >= 0 and (transition is None or not transition.row.releases):
            return None
        self.sent.append(self.left.pop(0))
        self._draw()
        return self.sent[-1]

    @property
    def expected(self) -> dict[str, Any]:
        """What the run makes of them: whichever of `left` and `right` came first ends `either`."""
        either = next(payload for name, payload in self.sent if name in {"left", "right"})
        left, right = (3, 4) if either not in (3, 4) else ((5, 4) if either == 3 else (3, 6))
        return {"go": [1, 2], "either": either, "both": {"left": left, "right": right, "more": 7}}


class Post:
    """Holds recorders up to send what is due at that moment."""

    def __init__(self, connection: DriverConnection, senders: list[Sender]) -> None:
        self._connection = connection
        self._busy = asyncio.Lock()
        self._senders = {sender.execution_id: sender for sender in senders}

    def watch(self, running: Engine) -> None:
        recorder: Recorder = running.recorder
        recorder.record = self._around(recorder.record)  # type: ignore[method-assign]

    def _around(self, record: Callable[[Transition], Awaitable[RecordResult]]) -> Any:
        async def recorded(transition: Transition) -> RecordResult:
            sender = self._senders[transition.row.id]
            await self.send(sender, transition, before=True)
            result = await record(transition)
            await self.send(sender, transition, before=False)
            return result

        return recorded

    async def send(self, sender: Sender, transition: Transition | None, *, before: bool) -> None:
        # Who has given the run back may be replaced meanwhile; the letter is sent all the same.
        await asyncio.shield(asyncio.ensure_future(self._send(sender, transition, before=before)))

    async def _send(self, sender: Sender, transition: Transition | None, *, before: bool) -> None:
        while signal := sender.due(transition, before=before):
            async with self._busy:  # it lets in who came first
                mail_id = clock.new_id("mail")
                await self._connection.fetch(SEND, mail_id, ORG, sender.execution_id, signal[0], encode(signal[1]))


@pytest.mark.parametrize("seed", range(4))
async def test_a_thousand_interleavings_of_signals_and_waits(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    workflow = await save_workflow(database, *STEPS, output=OUTPUT)
    senders = [Sender(clock.new_id("exec"), chance) for _ in range(RUNS)]
    async with engine(database) as one, engine(database) as other, database.connected() as connection:
        post = Post(connection, senders)
        post.watch(one)
        post.watch(other)

        async def start(sender: Sender) -> None:
            await one.recorder.create(new_execution(workflow, id=sender.execution_id))
            await post.send(sender, None, before=True)

        await asyncio.gather(*map(start, senders))
        one.orchestrator.nudge()
        other.orchestrator.nudge()

        async def all_ended() -> bool:
            return not await database.fetchval("SELECT count(*) FROM executions WHERE status <> 'COMPLETED'")

        await eventually(all_ended, 60)
    outputs = {
        row["id"]: json.loads(row["output"]) for row in await database.fetch("SELECT id, output FROM executions")
    }
    for sender in senders:
        assert outputs[sender.execution_id] == sender.expected, sender.sent
    used = "SELECT count(*) FROM execution_inbox WHERE consumed_by IS NOT NULL AND applied_at IS NOT NULL"
    assert await database.fetchval(used) == RUNS * 6
    received = "SELECT count(*) FROM execution_events WHERE type = 'signal_received'"
    assert RUNS * 6 <= await database.fetchval(received) <= RUNS * 7
