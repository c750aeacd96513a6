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
    subscribers: tuple[int, ...]
    stream_rounds: int
    stream_ticks: int
    history: int
    growth_rounds: int
    reads: int
    waiting: int
    woken: int
    idle_seconds: float
    crowd: int


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
    subscribers=(1, 100),
    stream_rounds=1,
    stream_ticks=10,
    history=10_000,
    growth_rounds=1,
    reads=10,
    waiting=1_000,
    woken=5,
    idle_seconds=3.0,
    crowd=500,
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
    subscribers=(1, 10, 100, 1000),
    stream_rounds=3,
    stream_ticks=20,
    history=1_000_000,
    growth_rounds=3,
    reads=30,
    waiting=100_000,
    woken=50,
    idle_seconds=20.0,
    crowd=1_000,
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
    subscribers=(2,),
    stream_rounds=1,
    stream_ticks=2,
    history=100,
    growth_rounds=1,
    reads=2,
    waiting=100,
    woken=2,
    idle_seconds=0.1,
    crowd=5,
)
"""For trying the benchmark itself: its figures mean nothing."""
