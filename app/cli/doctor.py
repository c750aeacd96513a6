"""`doctor`: whether the record is sound."""

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.auth.secret import derive_password
from app.cli.deployment import chosen_database, load_settings
from app.cli.drawing import printable
from app.cli.failures import CommandFailed, explain, report
from app.db.doctor import Report, diagnose
from app.db.engines import connect
from app.db.errors import translated
from app.db.invariants import Verdict
from app.db.urls import ENGINE, role_url
from app.domain.durations import parse_duration
from app.logs import configure_logs
from app.settings import Settings

SOUND, BROKEN, UNKNOWN = 0, 1, 2
_STATUS = {SOUND: "sound", BROKEN: "broken", UNKNOWN: "unknown"}
_CLOSING_SECONDS = 10.0


def doctor(data_dir: Path | None, timeout: str, *, as_json: bool) -> int:
    """Examine the database and say which rules hold; the exit status: 0 sound, 1 broken, 2 it could not be told."""
    configure_logs("human", "warning")
    try:
        found = asyncio.run(_examined(load_settings(data_dir=data_dir), data_dir, _seconds(timeout)))
    except Exception as error:  # noqa: BLE001 - whatever kept it from looking says nothing about the record
        if as_json:
            print(json.dumps({"status": _STATUS[UNKNOWN], "error": explain(error)}, indent=2))
        else:
            report(error)
        return UNKNOWN
    status = BROKEN if found.broken else UNKNOWN if found.undecided else SOUND
    if as_json:
        rules = [_as_json(verdict) for verdict in found.verdicts]
        print(json.dumps({"status": _STATUS[status], "rules": rules, "warnings": found.warnings}, indent=2))
    else:
        _show(found)
    return status


def _seconds(timeout: str) -> float:
    try:
        seconds = parse_duration(timeout)
    except ValueError as error:
        raise CommandFailed(f"--timeout: {error}") from error
    if seconds <= 0:
        raise CommandFailed("--timeout: a rule needs some time")
    return seconds


async def _examined(settings: Settings, data_dir: Path | None, rule_timeout: float) -> Report:
    async with chosen_database(settings, data_dir) as (chosen, admin_url):
        url = role_url(chosen, ENGINE, partial(derive_password, chosen.db_secret), admin_url)
        with translated():
            connection = await connect(url, "stepstream-doctor", command_timeout=rule_timeout + _CLOSING_SECONDS)
        try:
            # After its lease a dead process is found by the next scan; after an outage leases count again one ttl late.
            patience = chosen.lease_ttl + 2 * chosen.scan_interval + 30

            async def between_looks() -> None:
                say = f"Something is late. It may be on its way: looking again in {patience:.0f} s"
                Console(stderr=True, highlight=False).print(Text(say, "dim"))
                await asyncio.sleep(patience)

            return await diagnose(connection, patience=patience, rule_timeout=rule_timeout, between_looks=between_looks)
        finally:
            await connection.close(timeout=_CLOSING_SECONDS)


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "rule": verdict.rule.name,
        "says": verdict.rule.says,
        "backs": verdict.rule.backs,
        "holds": None if verdict.unknown is not None else not verdict.count,
        "broken_by": verdict.count,
        "examples": [{name: _plain(value) for name, value in row.items()} for row in verdict.shown],
        "undecided": verdict.unknown,
    }


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _show(found: Report) -> None:
    console = Console(highlight=False)
    table = Table.grid(padding=(0, 1))
    for verdict in found.verdicts:
        table.add_row(_mark(verdict), Text(verdict.rule.name), Text(verdict.rule.says, "dim"))
    console.print(table)
    for verdict in [*found.broken, *found.undecided]:
        for line in _details(verdict):
            console.print(Text(line, "yellow" if verdict.unknown is not None else "red"), soft_wrap=True)
    for warning in found.warnings:
        console.print(Text.assemble(("! ", "yellow"), warning), soft_wrap=True)
    console.print(_sum(found))


def _mark(verdict: Verdict) -> Text:
    if verdict.unknown is not None:
        return Text("?", "yellow")
    return Text("✗", "red") if verdict.count else Text("✓", "green")


def _details(verdict: Verdict) -> Iterator[str]:
    if verdict.unknown is not None:
        yield f"{verdict.rule.name} is not decided: {verdict.unknown}"
        return
    yield f"{verdict.rule.name} is broken by {verdict.count}:"
    for row in verdict.shown:
        yield "    " + ", ".join(
            printable(value) if name == "id" else f"{name} {printable(value)}" for name, value in row.items()
        )
    if verdict.count > len(verdict.shown):
        yield f"    and {verdict.count - len(verdict.shown)} more"


def _sum(found: Report) -> Text:
    total = len(found.verdicts)
    if found.broken:
        promises = sorted({number for verdict in found.broken for number in verdict.rule.backs if number[0] == "P"})
        return Text(
            f"{len(found.broken)} of {total} rules are broken: {', '.join(promises)} cannot be relied on", "bold red"
        )
    if found.undecided:
        return Text(f"{len(found.undecided)} of {total} rules are undecided, no other is broken", "bold yellow")
    return Text(f"All {total} rules hold", "bold green")
