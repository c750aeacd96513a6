"""Inputs made from the API's own description: none makes a server error or an answer that is not described.

What exists is asked for, and asked for again as somebody of another organisation, who is told that there is nothing.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.api.live import Live, Member
from tests.api.test_every_route import OWNED, make_belongings

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,ignored_auth,unsupported_method,allow_header_conformance,"
    "another_organization_is_told_nothing"
)
"""Not those about what is deleted or was just made: a revoked key stays on record, a new run has nothing to compare."""
PHASES = "examples,coverage,fuzzing,stateful"


async def fuzz(live: Live, owner: Member, phases: str, seconds: int, seed: int) -> None:
    stranger = await (await live.organization()).member()
    async with owner.http() as client:
        belongings = {name: value for name, value in (await make_belongings(live, client)).items() if name in OWNED}
    surroundings = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.api.schemathesis_hooks",
        "FUZZ_BELONGINGS": json.dumps(belongings),
        "FUZZ_STRANGER": stranger.token,
    }
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"), "run", f"{live.url}/openapi.json",
        "-H", f"Authorization: Bearer {owner.token}", "--phases", phases, "--max-time", str(seconds),
        "--seed", str(seed), "--checks", CHECKS, "--exclude-path-regex", "logout|metrics", "--workers", "1",
        "--max-examples", "25", "--request-timeout", "30", "--no-color",
        env=surroundings, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    told = "\n".join(line[:400] for line in output.decode().splitlines())  # what was sent may be of any length
    assert process.returncode == 0, told[-12_000:]


@pytest.mark.timeout(180)
async def test_no_described_input_makes_a_server_error(live: Live, owner: Member) -> None:
    await fuzz(live, owner, PHASES, seconds=60, seed=1)


@pytest.mark.fuzz
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [2, 3, 4])
async def test_no_described_input_makes_a_server_error_in_five_minutes_either(
    live: Live, owner: Member, seed: int
) -> None:
    """Opt in with `pytest -m fuzz`; it ends by itself, and prints how to repeat what it found."""
    await fuzz(live, owner, PHASES, seconds=300, seed=seed)
