"""Everything at once: kills, zombies, lost answers, broken connections, crashes of the database; nothing is lost.

The short form has a fixed course and runs always. The long one is random: `pytest -m chaos --chaos-minutes 20`.
"""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.campaign import campaign
from tests.chaos.nemesis import Nemesis

SHORT = (
    "kill",
    "lost records",
    "freeze",
    "lost answers",
    "cut",
    "kill",
    "lost questions",
    "crash of postgres",
    "dark",
    "stop",
    "kill",
    "lost answers",
)
HANDS, MEAN_INTERVAL = 2, 1.0


@pytest.mark.timeout(300)
async def test_a_short_rage_loses_nothing(tmp_path: Path) -> None:
    async def rage(nemesis: Nemesis) -> None:
        for fault in SHORT:
            await nemesis.strike(fault)

    async with campaign(1, tmp_path) as short:
        await short.run(rage)


@pytest.mark.chaos
@pytest.mark.timeout(0)
async def test_a_long_rage_loses_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    seed, minutes = request.config.getoption("--chaos-seed"), request.config.getoption("--chaos-minutes")
    beside = request.config.getoption("--chaos-beside")
    end = time.monotonic() + minutes * 60

    async def rage(nemesis: Nemesis) -> None:
        async with asyncio.TaskGroup() as hands:
            for _ in range(HANDS):
                hands.create_task(nemesis.rage(list(nemesis.faults), MEAN_INTERVAL, lambda: time.monotonic() > end))

    async with campaign(seed, tmp_path, apps=3, beside=beside) as long:
        await long.run(rage)
        keep(long.result(), request.config.getoption("--chaos-result"))


def keep(result: dict[str, Any], path: str | None) -> None:
    print(json.dumps({name: value for name, value in result.items() if name != "timeline"}))
    if path is not None:
        Path(path).write_text(json.dumps(result, indent=1))
