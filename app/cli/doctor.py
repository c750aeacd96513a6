"""`doctor`: whether the record is sound."""

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from app.auth.secret import derive_password
from app.cli.deployment import chosen_database, load_settings
from app.cli.drawing import printable
from app.db.engines import connect
from app.db.invariants import Verdict, examine
from app.db.urls import ENGINE, role_url
from app.logs import configure_logs


def doctor(data_dir: Path | None, *, as_json: bool) -> int:
    """Examine the database and say which rules hold; the exit status, 1 if one does not."""
    configure_logs("human", "warning")
    verdicts = asyncio.run(_examined(data_dir))
    if as_json:
        broken = {verdict.rule: verdict.broken_by for verdict in verdicts if verdict.broken_by}
        print(json.dumps({"sound": not broken, "rules": len(verdicts), "broken": broken}, indent=2, default=str))
    else:
        _show(verdicts)
    return 1 if any(verdict.broken_by for verdict in verdicts) else 0


async def _examined(data_dir: Path | None) -> list[Verdict]:
    async with chosen_database(load_settings(data_dir=data_dir), data_dir) as (settings, admin_url):
        url = role_url(settings, ENGINE, partial(derive_password, settings.db_secret), admin_url)
        connection = await connect(url, "stepstream-doctor")
        try:
            return await examine(connection)
        finally:
            await connection.close()


def _show(verdicts: Sequence[Verdict]) -> None:
    console = Console(highlight=False)
    for verdict in verdicts:
        mark = Text("✗ ", "red") if verdict.broken_by else Text("✓ ", "green")
        console.print(mark.append(verdict.rule, ""))
        for row in verdict.broken_by:
            console.print(
                Text("    " + ", ".join(f"{name} {printable(str(value))}" for name, value in row.items()), "red")
            )
    broken = sum(1 for verdict in verdicts if verdict.broken_by)
    said = f"{broken} of {len(verdicts)} rules are broken" if broken else f"All {len(verdicts)} rules hold"
    console.print(Text(said, "bold red" if broken else "bold green"))
