"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rounds, seconds and counts of a whole benchmark."""

    rounds: int
    at_once: int
    warm_up_seconds: float
    throughput_seconds: float
    commit_seconds: float
    latency_runs: int
    sequence_runs: int
    fan_out_runs: int
    item_rounds: int


QUICK = Sizes(
    rounds=3,
    at_once=64,
    warm_up_seconds=0.5,
    throughput_seconds=2.0,
    commit_seconds=1.0,
    latency_runs=60,
    sequence_runs=3,
    fan_out_runs=5,
    item_rounds=1,
)
FULL = Sizes(
    rounds=5,
    at_once=64,
    warm_up_seconds=1.0,
    throughput_seconds=5.0,
    commit_seconds=3.0,
    latency_runs=300,
    sequence_runs=10,
    fan_out_runs=20,
    item_rounds=3,
)
TINY = Sizes(
    rounds=1,
    at_once=4,
    warm_up_seconds=0.0,
    throughput_seconds=0.1,
    commit_seconds=1.0,
    latency_runs=2,
    sequence_runs=1,
    fan_out_runs=1,
    item_rounds=1,
)
"""For trying the benchmark itself: its figures mean nothing."""
