"""A whole run: what machine this is, what settings, which scenarios, what came out."""

import os
import platform
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from app import clock
from app.bench.results import Outcome
from app.bench.scenarios.growth import growth
from app.bench.scenarios.latency import latency
from app.bench.scenarios.memory import memory
from app.bench.scenarios.steps import fan_out, sequences
from app.bench.scenarios.streaming import streaming
from app.bench.scenarios.throughput import throughput
from app.bench.scenarios.waiting import waiting
from app.bench.sizes import Sizes
from app.bench.testbed import SERVER_SETTINGS, Tell, Testbed, testbed

Scenario = Callable[[Testbed, Sizes], Awaitable[Outcome]]

SCENARIOS: Mapping[str, Scenario] = {
    "throughput": throughput,
    "latency": latency,
    "sequences": sequences,
    "fan-out": fan_out,
    "streaming": streaming,
    "memory": memory,
    "growth": growth,
    "waiting": waiting,
}

_LIBRARIES = ("stepstream", "asyncpg", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "orjson", "pydantic")
_POSTGRES_SETTINGS = (
    "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers", "min_wal_size",
    "max_wal_size", "max_connections", "commit_delay",
)  # fmt: skip


async def benchmark(sizes: Sizes, wanted: Iterable[str], tell: Tell) -> dict[str, Any]:
    """Run scenarios, in their order; the record of it all. Raises WrongRows when rows are missing."""
    begun = clock.now()
    outcomes: dict[str, Outcome] = {}
    async with testbed(tell) as bed:
        postgres = await _postgres(bed)
        for name in wanted:
            outcomes[name] = await SCENARIOS[name](bed, sizes)
    return {
        "begun_at": begun.isoformat(),
        "minutes": round((clock.now() - begun).total_seconds() / 60, 2),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
        "postgres": postgres,
        "server_settings": dict(SERVER_SETTINGS),
        "sizes": asdict(sizes),
        "void": [reason for outcome in outcomes.values() for reason in outcome.void],
        "scenarios": {
            name: {
                "results": [result.record() for result in outcome.results],
                "measurements": outcome.measurements,
            }
            for name, outcome in outcomes.items()
        },
    }


def machine() -> dict[str, Any]:
    """What kind of machine this is; the load is what others gave it to do before the benchmark began."""
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu_name(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "load": [round(load, 2) for load in psutil.getloadavg()],
    }


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


async def _postgres(bed: Testbed) -> dict[str, str]:
    connection = (await bed.database("commits")).connection
    rows = await connection.fetch(
        "SELECT name, current_setting(name) AS value FROM pg_settings WHERE name = ANY($1)", list(_POSTGRES_SETTINGS)
    )
    release = await connection.fetchval("SHOW server_version")
    return {"version": release} | {row["name"]: row["value"] for row in rows}
