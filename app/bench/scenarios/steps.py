"""Runs of many steps: in sequence, side by side, and as items of one `for_each`."""

from dataclasses import dataclass
from functools import partial

from app.bench.contestants import Contestant
from app.bench.figures import percentile
from app.bench.results import Outcome, Wanted, against, in_rounds
from app.bench.shapes import FAN_OUT, FORTY_STEPS, ITEMS, TEN_STEPS, Shape
from app.bench.sizes import Sizes
from app.bench.testbed import Testbed


@dataclass(frozen=True, slots=True)
class Trial:
    """A shape, how often it is run in each of so many rounds, and what is wanted of the engine."""

    name: str
    shape: Shape
    runs: int
    rounds: int
    wanted: Wanted | None = None


async def sequences(testbed: Testbed, sizes: Sizes) -> Outcome:
    """The shapes of the known public comparison of engines."""
    return await _compare(
        testbed,
        [
            Trial("forty steps of fibonacci(10)", FORTY_STEPS, sizes.sequence_runs, sizes.rounds, Wanted(1.5, 2.5)),
            Trial("ten steps of fibonacci(25)", TEN_STEPS, sizes.sequence_runs, sizes.rounds),
        ],
    )


async def fan_out(testbed: Testbed, sizes: Sizes) -> Outcome:
    """Side by side, and as items."""
    return await _compare(
        testbed,
        [
            Trial("a hundred steps and a join", FAN_OUT, sizes.fan_out_runs, sizes.rounds, Wanted(2.5, 4.0)),
            Trial("for_each of 10,000", ITEMS, 1, sizes.item_rounds),
        ],
    )


async def _compare(testbed: Testbed, trials: list[Trial]) -> Outcome:
    contestants: list[Contestant] = [await testbed.engine(), await testbed.limit(), await testbed.rest()]
    referee, outcome = testbed.referee, Outcome()
    for trial in trials:
        testbed.tell(trial.name.capitalize())
        for contestant in contestants if trial.runs > 1 else ():
            await contestant.one_by_one(trial.shape, 1)
        turns = await in_rounds(
            trial.rounds, {each.name: partial(referee.latency, each, trial.shape, trial.runs) for each in contestants}
        )
        seconds = {name: [percentile(turn.load.durations, 50) for turn in each] for name, each in turns.items()}
        outcome.measurements[trial.shape.name] = {name: [turn.figures for turn in each] for name, each in turns.items()}
        outcome.results += [
            against(trial.name, "s", seconds["engine"], seconds["limit"], trial.wanted),
            against(f"{trial.name}, over REST", "s", seconds["rest"], seconds["limit"]),
        ]
    return outcome
