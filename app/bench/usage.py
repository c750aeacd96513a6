"""Processor time and memory of processes, and what others on the machine took meanwhile."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import psutil

SAMPLE_SECONDS = 0.1


@dataclass
class Usage:
    """What a stretch of time cost: processor seconds by group, and each group's largest memory, in bytes."""

    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    others: float = 0.0
    """The share of the machine's processors that nobody of ours used."""

    def figures(self, runs: int) -> dict[str, Any]:
        """For the record, per run."""
        each = {group: round(seconds * 1000 / max(runs, 1), 4) for group, seconds in self.cpu.items()}
        peak = {group: round(size / 2**20, 1) for group, size in self.memory.items()}
        return {"cpu_ms_per_run": each, "peak_mib": peak, "others_share_of_cpu": round(self.others, 3)}


@asynccontextmanager
async def used(groups: Mapping[str, Sequence[int]]) -> AsyncIterator[Usage]:
    """What the processes of each group, and their children, use inside the block."""
    usage = Usage()
    begun, before, busy = perf_counter(), {name: cpu_of(pids) for name, pids in groups.items()}, _busy()
    sampling = asyncio.create_task(_sample(groups, usage.memory))
    try:
        yield usage
    finally:
        sampling.cancel()
        await asyncio.wait([sampling])
    usage.seconds = perf_counter() - begun
    usage.cpu = {name: cpu_of(pids) - before[name] for name, pids in groups.items()}
    processors = os.cpu_count() or 1
    usage.others = max(0.0, (_busy() - busy - sum(usage.cpu.values())) / usage.seconds / processors)


def cpu_of(pids: Sequence[int]) -> float:
    """Processor seconds so far; those of children included, unless they are ours, also of such as have ended."""
    total = 0.0
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            times = process.cpu_times()
            total += times.user + times.system
            if pid == os.getpid():
                continue  # its children are measured as themselves
            total += times.children_user + times.children_system
            for child in process.children():
                with suppress(psutil.Error):
                    spent = child.cpu_times()
                    total += spent.user + spent.system
    return total


def memory_of(pids: Sequence[int]) -> int:
    """Resident bytes of the processes themselves."""
    total = 0
    for pid in pids:
        with suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss
    return total


async def _sample(groups: Mapping[str, Sequence[int]], peaks: dict[str, int]) -> None:
    while True:
        for name, pids in groups.items():
            peaks[name] = max(peaks.get(name, 0), memory_of(pids))
        await asyncio.sleep(SAMPLE_SECONDS)


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
