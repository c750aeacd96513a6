"""`alembic check` on a fresh database: what the migrations make is what the tables in the code say."""

# ruff: noqa: INP001, S603 - a script, which runs a program of the virtual environment

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from app.db.migrate import migrate
from app.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[1]


def main() -> int:
    """The exit code of `alembic check`."""
    with tempfile.TemporaryDirectory() as directory:
        postgres = EmbeddedPostgres(Path(directory) / "data")
        postgres.start()
        try:
            url = postgres.url("postgres", "postgres")
            asyncio.run(migrate(url, lambda role: role))
            command = [sys.executable, "-m", "alembic", "check"]
            return subprocess.run(command, cwd=ROOT, env={**os.environ, "DATABASE_URL": url}, check=False).returncode
        finally:
            postgres.stop_if_last()


if __name__ == "__main__":
    sys.exit(main())
