"""Inputs made from the API's own description: none makes a server error or an answer that is not described."""

import asyncio
import sys
from pathlib import Path

import pytest

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.fuzz
@pytest.mark.timeout(600)
async def test_no_described_input_makes_a_server_error(live, owner):
    """Opt in with `pytest -m fuzz`; it ends by itself within some minutes, and prints how to repeat what it found."""
    program = Path(sys.executable).with_name("schemathesis")
    process = await asyncio.create_subprocess_exec(
        program, "run", f"{live.url}/openapi.json", "-H", f"Authorization: Bearer {owner.token}",
        "--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--checks", CHECKS,
        "--exclude-path-regex", "logout|metrics", "--workers", "1", "--no-color",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-4_000:]
