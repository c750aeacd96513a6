"""`bench`: measures this machine and this version, beside the limit; and the programs that it measures."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from app.bench.benchmark import SCENARIOS, benchmark
from app.bench.children import ChildFailed
from app.bench.contestants import RunFailed
from app.bench.ledger import WrongRows
from app.bench.programs import PROGRAMS
from app.bench.report import show
from app.bench.sizes import FULL, QUICK
from app.cli.deployment import load_settings
from app.cli.failures import CommandFailed
from app.cli.stopping import StopSignals, run_until_stopped
from app.logs import configure_logs

QUICK_SCENARIOS = ("throughput", "latency", "sequences", "fan-out", "streaming", "memory")


def bench(only: str | None, json_file: Path | None, *, quick: bool) -> int:
    """Measure, print the table, write the record; 1 if the run counts for nothing."""
    configure_logs("human", "warning")
    wanted = _wanted(only)
    sizes = QUICK if quick else FULL
    if quick and only is None:
        wanted = [name for name in wanted if name in QUICK_SCENARIOS]
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)

    async def measured(signals: StopSignals) -> int:
        with signals.breaking_off(), Console(stderr=True).status("Starting", spinner="dots") as status:
            record = await benchmark(sizes, wanted, status.update)
        show(console, record)
        _keep(record, json_file)
        return 1 if record["void"] else 0

    try:
        return run_until_stopped(measured)
    except (ChildFailed, RunFailed, WrongRows) as error:
        raise CommandFailed(str(error)) from error


def run_program(name: str) -> int:
    """One of the programs that the benchmark measures, on DATABASE_URL."""
    configure_logs("human", "warning")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(PROGRAMS[name](load_settings()))  # type: ignore[arg-type]
    return 0


def _keep(record: dict[str, Any], json_file: Path | None) -> None:
    if json_file is not None:
        json_file.write_text(json.dumps(record, indent=1) + "\n")


def _wanted(only: str | None) -> Sequence[str]:
    if only is None:
        return list(SCENARIOS)
    names = [name.strip() for name in only.split(",")]
    if unknown := set(names) - set(SCENARIOS):
        raise CommandFailed(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    return [name for name in SCENARIOS if name in names]
