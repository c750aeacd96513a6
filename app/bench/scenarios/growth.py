"""What a million finished runs in the tables cost, beside what they cost the limit, whose tables grow the same way."""

from functools import partial
from typing import Any, Literal
from urllib.parse import quote

import orjson

from app.bench.contestants import Contestant, Rest, Turn
from app.bench.figures import middle, percentile
from app.bench.history import multiply, sealed
from app.bench.load import one_by_one
from app.bench.polling import eventually
from app.bench.results import Outcome, Result, Wanted, in_rounds
from app.bench.shapes import THREE_STEPS, Shape
from app.bench.sizes import Sizes
from app.bench.testbed import Testbed
from app.db.engines import connect
from app.db.queue import Queue

Measure = Literal["throughput", "latency"]

_WANTED = Wanted(1.05, 1.15)
_NEWEST = "SELECT max(id) FROM executions"


async def growth(testbed: Testbed, sizes: Sizes) -> Outcome:
    """Over REST, for reads, and for the engine alone."""
    outcome = Outcome()
    over_http: dict[str, Contestant] = {
        "ours, empty": await testbed.rest("empty"),
        "ours, grown": await testbed.rest("grown"),
        "limit, empty": await testbed.limit_over_http("limit_empty"),
        "limit, grown": await testbed.limit_over_http("limit_grown"),
    }
    await _grow(testbed, over_http["ours, grown"], sizes, audited=True)
    await _grow(testbed, over_http["limit, grown"], sizes, audited=False)
    await _compare(testbed, sizes, outcome, over_http, "three steps over REST", ("throughput", "latency"))
    await _reads(testbed, sizes, outcome)
    for database in ("empty", "grown"):
        await testbed.stop(database)
    alone: dict[str, Contestant] = {
        "ours, empty": await testbed.engine("empty"),
        "ours, grown": await testbed.engine("grown"),
        "limit, empty": await testbed.limit("limit_empty"),
        "limit, grown": await testbed.limit("limit_grown"),
    }
    await _compare(testbed, sizes, outcome, alone, "three steps, engine alone", ("throughput",))
    for database in ("empty", "grown", "limit_empty", "limit_grown"):
        await testbed.stop(database)
    return outcome


async def _grow(testbed: Testbed, contestant: Contestant, sizes: Sizes, *, audited: bool) -> None:
    await contestant.one_by_one(THREE_STEPS, 1)
    ledger = contestant.ledger
    testbed.tell(f"{sizes.history:,} finished runs for the database {ledger.name}")
    await multiply(ledger, await ledger.connection.fetchval(_NEWEST), sizes.history)
    if audited:
        testbed.tell("Waiting until their audit rows are sealed")
        await eventually(partial(sealed, ledger), every=0.5, seconds=1800)


async def _compare(
    testbed: Testbed,
    sizes: Sizes,
    outcome: Outcome,
    contestants: dict[str, Contestant],
    name: str,
    measures: tuple[Measure, ...],
) -> None:
    referee = testbed.referee
    for contestant in contestants.values():
        await contestant.for_seconds(THREE_STEPS, sizes.at_once, sizes.warm_up_seconds)
    for measure in measures:
        testbed.tell(f"{name.capitalize()}: {measure} with and without {sizes.history:,} finished runs")
        turns: dict[str, list[Turn]] = await in_rounds(
            sizes.growth_rounds,
            {
                whose: partial(referee.throughput, each, THREE_STEPS, sizes.at_once, sizes.throughput_seconds)
                if measure == "throughput"
                else partial(referee.latency, each, THREE_STEPS, sizes.latency_runs)
                for whose, each in contestants.items()
            },
        )
        outcome.measurements[f"{name}, {measure}"] = {
            whose: [turn.figures for turn in each] for whose, each in turns.items()
        }
        ours, limit = (_growth(turns, whose, measure) for whose in ("ours", "limit"))
        ratios = [own / bare for own, bare in zip(ours, limit, strict=True)]
        outcome.results.append(
            Result(f"{name}, growth of {measure}", "x", middle(ours), middle(limit), middle(ratios), _WANTED)
        )


def _growth(turns: dict[str, list[Turn]], whose: str, measure: Measure) -> list[float]:
    """How much worse it is when grown, round by round."""
    pairs = zip(turns[f"{whose}, empty"], turns[f"{whose}, grown"], strict=True)
    if measure == "throughput":
        return [empty.load.per_second / grown.load.per_second for empty, grown in pairs]
    return [grown.figures["p50_ms"] / empty.figures["p50_ms"] for empty, grown in pairs]


async def _reads(testbed: Testbed, sizes: Sizes, outcome: Outcome) -> None:
    """What people and the engine ask, at both sizes."""
    testbed.tell("Reading at both sizes")
    rests = {size: await testbed.rest(size) for size in ("empty", "grown")}
    paths = {size: await _paths(rest) for size, rest in rests.items()}
    queues = {size: Queue(partial(connect, testbed.url(size), "bench-claim")) for size in rests}
    turns = {
        (name, size): partial(_asked, rests[size], path, sizes.reads)
        for size in rests
        for name, path in paths[size].items()
    } | {("a claim", size): partial(_claimed, queues[size], sizes.reads) for size in rests}
    measured = await in_rounds(sizes.growth_rounds, turns)
    for queue in queues.values():
        await queue.close()
    for name in (*paths["grown"], "a claim"):
        grown, empty = middle(measured[name, "grown"]), middle(measured[name, "empty"])
        outcome.results.append(Result(f"{name}, p50", "ms", grown, note=f"{empty:.3g} ms without them"))
        outcome.measurements[f"{name}, p50_ms"] = {size: measured[name, size] for size in rests}


async def _paths(rest: Rest) -> dict[str, str]:
    page = orjson.loads((await rest.client.ask("GET", "/api/v1/executions?limit=1"))[1])
    execution = f"/api/v1/executions/{page['data'][0]['id']}"
    listed = "/api/v1/executions?limit=50"
    of_workflow = f"/api/v1/workflows/{THREE_STEPS.workflow_id}"
    return {
        "the newest 50": listed,
        "a workflow's newest 50": f"{of_workflow}/executions?limit=50",
        "an execution": execution,
        "its events": f"{execution}/events",
        "its log": f"{execution}/logs",
        "a workflow's counters": f"{of_workflow}/stats",
        "figures over all": "/api/v1/executions/metrics",
        "the next 50": f"{listed}&cursor={quote(page['next_cursor'])}",
    }


async def _asked(rest: Rest, path: str, times: int) -> float:
    async def ask(_shape: Shape) -> None:
        status, answer = await rest.client.ask("GET", path)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {answer[:500].decode(errors='replace')}")

    return await _p50(ask, times)


async def _claimed(queue: Queue, times: int) -> float:
    """Of nothing: what an idle process asks each second."""

    async def claim(_shape: Shape) -> None:
        await queue.claim("worker_bench", 100)

    return await _p50(claim, times)


async def _p50(work: Any, times: int) -> float:
    load = await one_by_one(work, THREE_STEPS, times)
    return percentile(load.durations, 50) * 1000
