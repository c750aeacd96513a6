"""What a running execution takes of the server's memory."""

import asyncio
from functools import partial

import orjson

from app.bench.contestants import Rest, RunFailed
from app.bench.polling import eventually
from app.bench.results import Outcome, Result, Wanted
from app.bench.shapes import THREE_STEPS
from app.bench.sizes import Sizes
from app.bench.testbed import Testbed, add_workflow
from app.bench.usage import memory_of

DATABASE = "memory"
AT_ONCE = 64

_WORKFLOW = "bench_crowd"
_RUNNING = "SELECT count(*) FROM executions WHERE status = 'RUNNING' AND owner IS NOT NULL"
_NAPS = 60
"""A nap of a second is slept in memory, so that a run of these goes on for a minute."""


async def memory(testbed: Testbed, sizes: Sizes) -> Outcome:
    """Of a server that has had some load before."""
    rest = await testbed.rest(DATABASE)
    await add_workflow(rest.ledger, _WORKFLOW, _naps())
    await rest.for_seconds(THREE_STEPS, sizes.at_once, max(sizes.warm_up_seconds, 0.1))
    before = memory_of(rest.pids)
    testbed.tell(f"{sizes.crowd:,} executions at once")
    await _start(rest, sizes.crowd)
    await eventually(partial(_all_run, rest, sizes.crowd), every=0.1)
    during = memory_of(rest.pids)
    await testbed.stop(DATABASE)
    each = (during - before) / sizes.crowd / 1024
    return Outcome(
        [Result(f"memory of one of {sizes.crowd:,} running", "KiB", each, wanted=Wanted(25, 60))],
        {"before_bytes": before, "during_bytes": during, "running": sizes.crowd},
    )


async def _start(rest: Rest, count: int) -> None:
    body = orjson.dumps({"workflow_id": _WORKFLOW})
    numbers = iter(range(count))

    async def some() -> None:
        for _ in numbers:
            status, answer = await rest.client.ask("POST", "/api/v1/executions", body)
            if status != 201:
                raise RunFailed(f"{_WORKFLOW}: {status} {answer[:500].decode(errors='replace')}")

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def _all_run(rest: Rest, count: int) -> bool:
    return bool(await rest.ledger.connection.fetchval(_RUNNING) == count)


def _naps() -> dict[str, object]:
    return {
        "name": "Crowd",
        "steps": [
            {"id": f"s{n}", "type": "delay", "with": {"duration": "1s"}, "needs": [f"s{n - 1}"] if n else []}
            for n in range(_NAPS)
        ],
    }
