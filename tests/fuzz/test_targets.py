"""Whatever strangers send to what reads bytes: an answer or a refusal, in time, and never another exception."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_its_seeds_and_what_is_near_them(name: str) -> None:
    """Each target is run in each build: on its seeds, and on some hundred mutations of them."""
    for seed in SEEDS[name]:
        TARGETS[name](seed)

    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(SEEDS[name]), st.integers(0, 200), st.integers(0, 5), st.binary(max_size=5))
    def mutated(seed: bytes, at: int, cut: int, new: bytes) -> None:
        TARGETS[name](seed[:at] + new + seed[at + cut :])

    mutated()


@pytest.mark.fuzz
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", TARGETS)
async def test_a_minute_of_fuzzing_by_coverage(name: str) -> None:
    """Opt in with `pytest -m fuzz`; a longer one: `python -m tests.fuzz <target> <seconds>`."""
    pytest.importorskip("atheris", reason="pip install -e '.[fuzz]'")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fuzz", name, "60", cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode(errors="replace")[-6_000:]
