"""Runs of three steps a second, 64 at once: over REST and through the engine alone, each beside its limit."""

from functools import partial

from app.bench.commits import commits_per_second
from app.bench.contestants import BATCH, Contestant, Turn
from app.bench.figures import middle
from app.bench.results import Outcome, Result, Wanted, against, in_rounds
from app.bench.shapes import THREE_STEPS
from app.bench.sizes import Sizes
from app.bench.testbed import Testbed

LEAST_LIMIT = 0.15
"""Of the server's one-row commits, this many runs: a slower limit would be no limit."""


async def throughput(testbed: Testbed, sizes: Sizes) -> Outcome:
    """With the server's one-row commits beside it, and what a run costs of processor time and memory."""
    referee = testbed.referee
    contestants: list[Contestant] = [
        await testbed.rest(), await testbed.rest_by_batches(), await testbed.limit_over_http(),
        await testbed.engine(), await testbed.limit(),
    ]  # fmt: skip
    for contestant in contestants:
        testbed.tell(f"Warming up: {contestant.name}")
        await contestant.for_seconds(THREE_STEPS, sizes.at_once, sizes.warm_up_seconds)
    testbed.tell("Three steps, 64 at once")
    turns = await in_rounds(
        sizes.rounds,
        {
            "commits": partial(commits_per_second, testbed, sizes.commit_seconds),
            **{
                each.name: partial(referee.throughput, each, THREE_STEPS, sizes.at_once, sizes.throughput_seconds)
                for each in contestants
            },
        },
    )
    commits: list[float] = turns.pop("commits")
    rates = {name: [turn.load.per_second for turn in each] for name, each in turns.items()}
    share = middle([limit / bare for limit, bare in zip(rates["limit"], commits, strict=True)])
    outcome = Outcome(
        [
            against("three steps over REST, a request each", "/s", rates["rest"], rates["limit over HTTP"]),
            against(
                f"three steps over REST, batches of {BATCH}",
                "/s",
                rates["rest by batches"],
                rates["limit over HTTP"],
                Wanted(0.75, 0.45, True),
            ),
            against("three steps, engine alone", "/s", rates["engine"], rates["limit"], Wanted(0.65, 0.40, True)),
            Result("one-row commits, 64 clients", "/s", middle(commits)),
            *_cost(turns),
        ],
        {
            "commits": commits,
            "limit_per_commit": share,
            **{name: [turn.figures for turn in each] for name, each in turns.items()},
        },
    )
    if share < LEAST_LIMIT:
        outcome.void.append(
            f"The limit did {share:.3f} runs for each one-row commit of the server, not {LEAST_LIMIT}: "
            "repeat it while nobody else uses the machine."
        )
    return outcome


def _cost(turns: dict[str, list[Turn]]) -> list[Result]:
    """Processor time tells more than rates where others use the machine too."""

    def spent(name: str, part: str) -> list[float]:
        return [turn.figures["cpu_ms_per_run"][part] for turn in turns[name]]

    lines = [
        against(f"processor time of {name}, {label}", "ms/run", spent(name, part), spent(limit, part))
        for name, limit in (("rest", "limit over HTTP"), ("rest by batches", "limit over HTTP"), ("engine", "limit"))
        for part, label in (("app", "Python"), ("postgres", "Postgres"))
    ]
    peak = max(turn.figures["peak_mib"]["app"] for turn in turns["rest"])
    return [*lines, Result("server's memory under this load", "MiB", peak, wanted=Wanted(150, 250))]
