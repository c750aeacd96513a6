"""A hundred thousand runs that wait: what they cost while nothing happens, and how soon one of them wakes."""

import asyncio
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import orjson

from app.bench.contestants import Rest, RunFailed
from app.bench.figures import percentile
from app.bench.history import multiply
from app.bench.ledger import Ledger
from app.bench.polling import eventually
from app.bench.results import Outcome, Result
from app.bench.sizes import Sizes
from app.bench.testbed import Testbed, add_workflow
from app.bench.usage import memory_of, used

DATABASE = "waiting"
SLEEP_SECONDS = 2.0
LONG_SLEEP_SECONDS = 30.0

_SIGNAL, _SLEEP, _LONG_SLEEP = "bench_signal", "bench_sleep", "bench_long_sleep"
_TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
_COUNT = "SELECT count(*) FROM executions WHERE status = 'WAITING'"
_LATE = """
SELECT extract(epoch FROM s.completed_at - s.started_at)::float8 AS seconds
  FROM execution_steps s JOIN executions e ON e.id = s.execution_id
 WHERE e.workflow_id = $1 AND e.id = ANY($2::text[]) AND e.status = 'COMPLETED'"""


@dataclass(frozen=True, slots=True)
class Idle:
    """A server while nothing happens: bytes, share of one processor, transactions a second."""

    memory: int
    app: float
    postgres: float
    transactions: float


async def waiting(testbed: Testbed, sizes: Sizes) -> Outcome:
    """Memory, load and wake-ups, with and without the crowd."""
    rest = await testbed.rest(DATABASE)
    for workflow_id, step in (
        (_SIGNAL, {"type": "wait_for_signal", "with": {"signal": "go"}}),
        (_SLEEP, {"type": "delay", "with": {"duration": f"{SLEEP_SECONDS:g}s"}}),
        (_LONG_SLEEP, {"type": "delay", "with": {"duration": f"{LONG_SLEEP_SECONDS:g}s"}}),
    ):
        await add_workflow(rest.ledger, workflow_id, {"name": workflow_id, "steps": [{"id": "wait", **step}]})
    testbed.tell("An idle server")
    empty = await _idle(testbed, rest, sizes)
    (asleep,) = await _started(rest, _SIGNAL, 1)
    await eventually(partial(_waits, rest, 1), every=0.05)
    testbed.tell(f"{sizes.waiting:,} waiting runs")
    await multiply(rest.ledger, asleep, sizes.waiting)
    over_restart = await _started(rest, _LONG_SLEEP, sizes.woken)
    await eventually(partial(_waits, rest, sizes.waiting + 1 + sizes.woken), every=0.05)
    await testbed.stop(DATABASE)
    rest = await testbed.rest(DATABASE)
    testbed.tell(f"An idle server with {sizes.waiting:,} waiting runs")
    crowded = await _idle(testbed, rest, sizes)
    testbed.tell("Waking up")
    found = {
        "after a timer": await _late(rest, _SLEEP, await _started(rest, _SLEEP, sizes.woken), SLEEP_SECONDS),
        "after a timer and a restart": await _late(rest, _LONG_SLEEP, over_restart, LONG_SLEEP_SECONDS),
        "after a signal": await _signalled(rest, sizes.woken),
    }
    await testbed.stop(DATABASE)
    return _told(sizes, empty, crowded, found)


def _told(sizes: Sizes, empty: Idle, crowded: Idle, found: dict[str, list[float]]) -> Outcome:
    beside = f"with {sizes.waiting:,} waiting"
    return Outcome(
        [
            Result(
                f"server's memory {beside}", "MiB", crowded.memory / 2**20, note=f"{empty.memory / 2**20:.1f} without"
            ),
            Result(
                "idle processor time, Python", "ms/s", crowded.app * 1000, note=f"{empty.app * 1000:.3g} without"
            ),
            Result(
                "idle processor time, Postgres", "ms/s", crowded.postgres * 1000,
                note=f"{empty.postgres * 1000:.3g} without",
            ),
            Result(
                "idle transactions", "/s", crowded.transactions, note=f"{empty.transactions:.3g} without"
            ),
            *(
                Result(f"wake-up {how}, p50", "ms", percentile(late, 50) * 1000,
                       note=f"p99 {percentile(late, 99) * 1000:.3g} ms")
                for how, late in found.items()
            ),
        ],
        {
            "idle": {"empty": _record(empty), "crowded": _record(crowded)},
            "late_seconds": found,
        },
    )  # fmt: skip


def _record(idle: Idle) -> dict[str, float]:
    return {
        "memory_bytes": idle.memory,
        "app_cpu": round(idle.app, 5),
        "postgres_cpu": round(idle.postgres, 5),
        "transactions_per_second": round(idle.transactions, 2),
    }


async def _idle(testbed: Testbed, rest: Rest, sizes: Sizes) -> Idle:
    await asyncio.sleep(sizes.idle_seconds / 2)  # what a start leaves to be done is done, and counted
    connection = rest.ledger.connection
    before = await connection.fetchval(_TRANSACTIONS)
    async with used({"app": rest.pids, "postgres": [testbed.postmaster]}) as usage:
        await asyncio.sleep(sizes.idle_seconds)
    after = await connection.fetchval(_TRANSACTIONS)
    seconds = usage.seconds
    transactions = (after - before) / seconds
    return Idle(memory_of(rest.pids), usage.cpu["app"] / seconds, usage.cpu["postgres"] / seconds, transactions)


async def _started(rest: Rest, workflow_id: str, count: int) -> list[str]:
    body = orjson.dumps({"workflow_id": workflow_id})
    answers = await asyncio.gather(*(rest.client.ask("POST", "/api/v1/executions", body) for _ in range(count)))
    wrong = [answer for status, answer in answers if status != 201]
    if wrong:
        raise RunFailed(f"{workflow_id}: {wrong[0][:500].decode(errors='replace')}")
    return [orjson.loads(answer)["id"] for _, answer in answers]


async def _late(rest: Rest, workflow_id: str, execution_ids: list[str], due: float) -> list[float]:
    """How much later than due each went on."""

    async def ended() -> list[Any] | None:
        rows: list[Any] = await rest.ledger.connection.fetch(_LATE, workflow_id, execution_ids)
        return rows if len(rows) == len(execution_ids) else None

    rows = await eventually(ended, every=0.2) or []
    return [row["seconds"] - due for row in rows]


async def _signalled(rest: Rest, count: int) -> list[float]:
    """From sending a signal to knowing that the run has ended, one at a time."""
    found = []
    for execution_id in await _started(rest, _SIGNAL, count):
        path = f"/api/v1/executions/{execution_id}"
        await eventually(partial(_shows, rest, path, b'"status":"WAITING"'), every=0.02)
        begun = perf_counter()
        await rest.client.ask("POST", f"{path}/signal", b'{"name":"go"}')
        _, answer = await rest.client.ask("GET", path, more="prefer: wait=30\r\n")
        found.append(perf_counter() - begun)
        if b'"status":"COMPLETED"' not in answer:
            raise RunFailed(f"{execution_id} did not end: {answer[:500].decode(errors='replace')}")
    return found


async def _shows(rest: Rest, path: str, text: bytes) -> bool:
    return text in (await rest.client.ask("GET", path))[1]


async def _waits(rest: Rest, count: int) -> bool:
    return await _waiting(rest.ledger) == count


async def _waiting(ledger: Ledger) -> int:
    count: int = await ledger.connection.fetchval(_COUNT)
    return count
