"""`token`: a credential for who has the machine."""

import asyncio
from pathlib import Path

from app.cli.deployment import issue_token, load_settings
from app.cli.failures import CommandFailed
from app.domain.durations import parse_duration
from app.logs import configure_logs


def token(data_dir: Path | None, ttl: str) -> int:
    """Print an API key, and nothing else, on stdout; the exit code."""
    configure_logs("human", "warning")
    try:
        seconds = parse_duration(ttl)
    except ValueError as error:
        raise CommandFailed(f"--ttl: {error}") from error
    if seconds < 1:
        raise CommandFailed("--ttl: a key is valid for a second at least")
    print(asyncio.run(issue_token(load_settings(data_dir=data_dir), data_dir, seconds)))
    return 0
