"""From asking for a run of three steps to knowing that it has ended, one at a time."""

from functools import partial

from app.bench.contestants import Contestant
from app.bench.results import Outcome, Result, Wanted, against, in_rounds
from app.bench.shapes import THREE_STEPS
from app.bench.sizes import Sizes
from app.bench.testbed import Testbed

_WANTED = Wanted(1.5, 2.5)


async def latency(testbed: Testbed, sizes: Sizes) -> Outcome:
    """Over REST, and without HTTP."""
    contestants: list[Contestant] = [
        await testbed.rest(), await testbed.limit_over_http(), await testbed.engine(), await testbed.limit(),
    ]  # fmt: skip
    referee = testbed.referee
    for contestant in contestants:
        await contestant.one_by_one(THREE_STEPS, 5)
    testbed.tell("Three steps, one at a time")
    turns = await in_rounds(
        sizes.rounds,
        {each.name: partial(referee.latency, each, THREE_STEPS, sizes.latency_runs) for each in contestants},
    )
    figures = {name: [turn.figures for turn in each] for name, each in turns.items()}

    def compared(name: str, ours: str, limit: str, percentile: str, wanted: Wanted | None = None) -> Result:
        own, bare = ([turn[f"{percentile}_ms"] for turn in figures[whose]] for whose in (ours, limit))
        return against(f"{name}, {percentile}", "ms", own, bare, wanted)

    over_rest = partial(compared, "three steps over REST", "rest", "limit over HTTP")
    return Outcome(
        [
            over_rest("p50", _WANTED),
            over_rest("p95"),
            over_rest("p99"),
            compared("three steps, engine alone", "engine", "limit", "p50"),
        ],
        figures,
    )
