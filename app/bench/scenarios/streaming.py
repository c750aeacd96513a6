"""From a commit to the clients that watch by WebSocket, beside a bare fan-out of the same bytes.

When a commit was done is told by its own notification, on a connection of ours; how much later such a notification
comes than the answer to the committing client is measured first, and taken off.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import orjson

from app.bench.contestants import Rest, RunFailed
from app.bench.figures import middle, percentile
from app.bench.http_client import HttpClient
from app.bench.ledger import Ledger, WrongRows
from app.bench.polling import eventually
from app.bench.results import Outcome, Result, Wanted, against, in_rounds
from app.bench.sizes import Sizes
from app.bench.testbed import Testbed, add_workflow
from app.bench.websocket_client import Subscriber, subscribe
from app.db.engines import DriverConnection

DATABASE = "streaming"
SPACING = 0.25
"""Seconds between commits: each has reached its last subscriber before the next one."""
EARLY = 0.02
"""So much earlier than its notification a message may seem to come."""
WATCHED = 100
TRIES = 8
BURST_STEPS = 100

_TICKS, _BURST = "bench_ticks", "bench_burst"
_OWNER = "SELECT w.pid FROM executions e JOIN workers w ON w.id = e.owner WHERE e.id = $1"
_EVENTS = "SELECT count(*) FROM execution_events WHERE execution_id = $1"
_LEASE = """
INSERT INTO workers (id, host, pid, incarnation, lease_until)
VALUES ('worker_witness', 'witness', 0, '', clock_timestamp() + interval '1 day')"""
"""Only who has a lease is rung for."""
_WANTED = {50: Wanted(1.5, 3.0), 99: Wanted(3.0, None)}


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds from the commit, or the call, to each arrival; what was sent last; who owned the run."""

    seconds: list[float]
    texts: list[str]
    owner: int | None = None


async def streaming(testbed: Testbed, sizes: Sizes) -> Outcome:
    """With few and with many subscribers, as a burst, and to another process than the one that runs it."""
    rest, bare = await testbed.rest(DATABASE), await testbed.fan_out()
    await add_workflow(rest.ledger, _TICKS, _document([_delay()] * sizes.stream_ticks))
    await add_workflow(rest.ledger, _BURST, _document([{"type": "log", "with": {"message": "x"}}] * BURST_STEPS))
    witness = await Witness.open(testbed, rest.ledger)
    outcome = Outcome()
    for count in sizes.subscribers:
        testbed.tell(f"Streaming to {count} subscribers")
        await _compare(outcome, count, sizes, rest, bare, witness)
    testbed.tell("A burst of events")
    outcome.results.append(await _burst(rest, bare, sizes))
    testbed.tell("Streaming from another process")
    other = await testbed.rest(DATABASE, "another")
    outcome.results += await _from_another(outcome, sizes, rest, other, witness)
    await testbed.stop(DATABASE)
    return outcome


class Witness:
    """Hears of each commit that has events, as a process does that owns nothing."""

    def __init__(self, connection: DriverConnection) -> None:
        self._connection = connection
        self._lag = 0.0
        self.heard: list[float] = []

    @classmethod
    async def open(cls, testbed: Testbed, ledger: Ledger) -> "Witness":
        witness = cls(await testbed.connected(ledger.url))
        await witness._connection.add_listener("stepstream_events", witness._hear)
        await witness._connection.execute(_LEASE)
        await witness._connection.execute("CREATE TABLE bench_commits (at timestamptz)")
        witness._lag = await witness._learn_lag(ledger.connection)
        return witness

    def commit_before(self, arrival: float) -> float:
        """When the newest commit was done that this arrival may be of."""
        return self.heard[bisect_right(self.heard, arrival + EARLY) - 1] - self._lag

    async def _learn_lag(self, committer: DriverConnection) -> float:
        statement = await committer.prepare(
            "WITH done AS (INSERT INTO bench_commits VALUES (now())) SELECT pg_notify('stepstream_events', '')"
        )
        lags = []
        for _ in range(50):
            await statement.fetch()
            answered = perf_counter()
            await asyncio.sleep(0.005)
            lags.append(self.heard[-1] - answered)
        return middle(lags)

    def _hear(self, *_notification: object) -> None:
        self.heard.append(perf_counter())


async def _compare(outcome: Outcome, count: int, sizes: Sizes, rest: Rest, bare: HttpClient, witness: Witness) -> None:
    first = await _ticks(rest, rest, count, witness)
    turns = await in_rounds(
        sizes.stream_rounds,
        {
            "rest": partial(_ticks, rest, rest, count, witness),
            "bare": partial(_bare_ticks, bare, count, first.texts, sizes.stream_ticks),
        },
    )
    for percent in (50, 99):
        ours, limit = ([percentile(turn.seconds, percent) * 1000 for turn in turns[name]] for name in ("rest", "bare"))
        wanted = _WANTED[percent] if count == WATCHED else None
        outcome.results.append(against(f"commit to {count} subscribers, p{percent}", "ms", ours, limit, wanted))
        outcome.measurements[f"{count} subscribers, p{percent}_ms"] = {"rest": ours, "bare": limit}
    outcome.measurements[f"{count} subscribers, messages"] = [len(turn.seconds) for turn in turns["rest"]]


async def _from_another(outcome: Outcome, sizes: Sizes, rest: Rest, other: Rest, witness: Witness) -> list[Result]:
    """Whichever process comes first owns a run; those count that the other one owned."""
    found: list[Delays] = []
    for _ in range(TRIES):
        delays = await _ticks(rest, other, WATCHED, witness)
        if delays.owner in other.pids:
            found.append(delays)
        if len(found) == sizes.stream_rounds:
            break
    lines = []
    for percent in (50, 99) if found else ():
        milliseconds = [percentile(delays.seconds, percent) * 1000 for delays in found]
        outcome.measurements[f"from another process, p{percent}_ms"] = milliseconds
        lines.append(Result(f"commit of another process to {WATCHED}, p{percent}", "ms", middle(milliseconds)))
    return lines


async def _ticks(watched: Rest, asked: Rest, count: int, witness: Witness) -> Delays:
    """One run of spaced commits, followed at one server and begun by another, or the same."""
    execution_id, subscribers = await _waiting_run(watched, _TICKS, count)
    owner = asyncio.create_task(_owner(watched.ledger, execution_id))
    begun = len(witness.heard)
    await _go(asked, execution_id)
    await _all_closed(subscribers)
    await _demand_all(watched.ledger, execution_id, subscribers)
    since = witness.heard[begun] + SPACING / 2
    arrivals = [arrival for each in subscribers for arrival in each.arrivals if arrival >= since]
    if not arrivals:
        raise RunFailed(f"No subscriber of {execution_id} heard of its commits")
    delays = [arrival - witness.commit_before(arrival) for arrival in arrivals]
    texts = [text.decode() for text in next(each for each in subscribers if each.texts).texts[-4:-1]]
    return Delays(delays, texts, await owner)


async def _bare_ticks(client: HttpClient, count: int, texts: list[str], ticks: int) -> Delays:
    subscribers = await subscribe(client, "/stream", count)
    body, at = orjson.dumps(texts), []
    for _ in range(ticks):
        at.append(await _publish(client, body))
        await asyncio.sleep(SPACING)
    for subscriber in subscribers:
        subscriber.close()
    await _all_closed(subscribers)
    arrivals = [arrival for each in subscribers for arrival in each.arrivals]
    return Delays([arrival - at[bisect_right(at, arrival) - 1] for arrival in arrivals], texts)


async def _burst(rest: Rest, bare: HttpClient, sizes: Sizes) -> Result:
    """Events a second to a hundred subscribers, as fast as a run of many steps makes them."""
    ours, limit = [], []
    for _ in range(sizes.stream_rounds):
        execution_id, subscribers = await _waiting_run(rest, _BURST, WATCHED)
        since = perf_counter()
        await _go(rest, execution_id)
        await _all_closed(subscribers)
        await _demand_all(rest.ledger, execution_id, subscribers)
        ours.append(_rate([arrival for each in subscribers for arrival in each.arrivals if arrival >= since]))
        texts = [text.decode() for text in subscribers[0].texts or next(s for s in subscribers if s.texts).texts]
        bystanders = await subscribe(bare, "/stream", WATCHED)
        for begin in range(0, len(texts), 3):
            await _publish(bare, orjson.dumps(texts[begin : begin + 3]))
        await eventually(partial(_all_have, bystanders, len(texts)), every=0.01)
        for each in bystanders:
            each.close()
        limit.append(_rate([arrival for each in bystanders for arrival in each.arrivals]))
    return against(f"events delivered to {WATCHED} subscribers", "/s", ours, limit)


def _rate(arrivals: Sequence[float]) -> float:
    return len(arrivals) / (max(arrivals) - min(arrivals))


async def _waiting_run(rest: Rest, workflow_id: str, count: int) -> tuple[str, list[Subscriber]]:
    """A run that waits for its signal, and its subscribers."""
    status, answer = await rest.client.ask("POST", "/api/v1/executions", orjson.dumps({"workflow_id": workflow_id}))
    if status != 201:
        raise RunFailed(f"{workflow_id}: {status} {answer[:500].decode(errors='replace')}")
    execution_id: str = orjson.loads(answer)["id"]

    async def waits() -> bool:
        _, shown = await rest.client.ask("GET", f"/api/v1/executions/{execution_id}")
        return b'"status":"WAITING"' in shown

    await eventually(waits, every=0.02)
    return execution_id, await subscribe(rest.client, f"/api/v1/executions/{execution_id}/stream", count)


async def _go(rest: Rest, execution_id: str) -> None:
    status, answer = await rest.client.ask("POST", f"/api/v1/executions/{execution_id}/signal", b'{"name":"go"}')
    if status != 202:
        raise RunFailed(f"The signal to {execution_id}: {status} {answer[:500].decode(errors='replace')}")


async def _publish(client: HttpClient, body: bytes) -> float:
    _, answer = await client.ask("POST", "/texts", body)
    at: float = orjson.loads(answer)["at"]
    return at


async def _all_have(subscribers: Sequence[Subscriber], messages: int) -> bool:
    return all(len(each.arrivals) >= messages for each in subscribers)


async def _all_closed(subscribers: Sequence[Subscriber]) -> None:
    async with asyncio.timeout(120):
        await asyncio.gather(*(each.closed for each in subscribers))


async def _demand_all(ledger: Ledger, execution_id: str, subscribers: Sequence[Subscriber]) -> None:
    """Each has got every event, and none twice; raises WrongRows."""
    events = await ledger.connection.fetchval(_EVENTS, execution_id)
    wrong = sorted({len(each.arrivals) for each in subscribers} - {events})
    if wrong:
        raise WrongRows(f"{execution_id} has {events} events; subscribers got {wrong}")


async def _owner(ledger: Ledger, execution_id: str) -> int:
    """The process that runs it, once one does."""

    async def look() -> int | None:
        pid: int | None = await ledger.connection.fetchval(_OWNER, execution_id)
        return pid

    return await eventually(look, every=SPACING / 5) or 0


def _delay() -> dict[str, Any]:
    return {"type": "delay", "with": {"duration": f"{SPACING * 1000:.0f}ms"}}


def _document(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """A signal, then these, one after the other."""
    chain = [{"type": "wait_for_signal", "with": {"signal": "go"}}, *steps]
    return {
        "name": "Streamed",
        "steps": [
            {"id": f"s{number}", "needs": [f"s{number - 1}"] if number else [], **step}
            for number, step in enumerate(chain)
        ],
    }
