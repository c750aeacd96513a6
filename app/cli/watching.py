"""`executions watch`: one execution by its stream, or all that are under way by asking again and again."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.live import Live

from app.cli.client import Client, Value
from app.cli.connection import INTERRUPTED, carry_out
from app.cli.drawing import printable
from app.cli.naming import execution_id
from app.cli.options import Access
from app.cli.reading import executions_table
from app.cli.run import Watch, aim, say_how_to_go_on, watch_to_end
from app.cli.tables import is_wide, wide_console
from app.domain.jsontext import encode
from app.domain.states import ExecutionStatus

SHOWN = 100
"""Executions that the table has at most."""

ASK_EVERY = 1.0
ACTIVE = [status.value for status in ExecutionStatus if not status.terminal]


def watch(execution: str, access: Access, *, as_json: bool) -> int:
    """Draw one execution to its end, or print its events as lines of JSON; 0 if it completes, else 1."""
    seen = Watch(Console(stderr=True, highlight=False))

    async def work(client: Client) -> int:
        await aim(client, seen, await execution_id(client, execution))
        return await _print_events(client, seen) if as_json else await watch_to_end(client, seen)

    status = carry_out(work, access)
    if status == INTERRUPTED:
        say_how_to_go_on(seen, access)
    return status


def watch_all(workflow: str | None, access: Access, *, as_json: bool) -> int:
    """Show what is under way until interrupted: a table on a terminal, else a line for each change."""

    async def work(client: Client) -> int:
        query: dict[str, Value] = {"status": ACTIVE, "limit": SHOWN}
        if workflow is not None:
            query["workflow_id"] = workflow
        console = wide_console()
        if console.is_terminal and not as_json:
            await _keep_table(client, console, query)
        else:
            await _tell_changes(client, query, as_json=as_json)
        return 0

    return carry_out(work, access)


async def _print_events(client: Client, seen: Watch) -> int:
    last = ""
    async with aclosing(client.follow(str(seen.execution_id), _quietly)) as events:
        async for event in events:
            print(encode(dict(event)), flush=True)
            last = event["type"]
    return 0 if last == "execution_completed" else 1


def _quietly(_reason: str) -> None:
    """A cut stream is taken up again by itself; programs need not know."""


async def _keep_table(client: Client, console: Console, query: Mapping[str, Value]) -> None:
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            page = await client.get("/executions", **query)
            table = executions_table(page["data"], wide=is_wide(console))
            table.caption = _caption(page)
            live.update(table, refresh=True)
            await asyncio.sleep(ASK_EVERY)


def _caption(page: Mapping[str, Any]) -> str:
    if page["has_more"]:
        return f"the newest {SHOWN} of those under way"
    return f"{len(page['data'])} under way" if page["data"] else "nothing is under way"


async def _tell_changes(client: Client, query: Mapping[str, Value], *, as_json: bool) -> None:
    known: dict[str, Mapping[str, Any]] = {}
    while True:
        page = await client.get("/executions", **query)
        active = {row["id"]: row for row in page["data"]}
        # What has left the list has ended, or been pushed out of it by newer ones.
        gone = [await client.get(f"/executions/{quote(each, safe='')}") for each in known if each not in active]
        ended = [row for row in gone if ExecutionStatus(row["status"]).terminal]
        changed = [row for row in reversed(page["data"]) if _face(row) != _face(known.get(row["id"]))]
        _print_rows([*ended, *changed], as_json=as_json)
        known = active
        await asyncio.sleep(ASK_EVERY)


def _face(row: Mapping[str, Any] | None) -> tuple[object, ...]:
    return () if row is None else (row["status"], row["status_reason"], row["progress"])


def _print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    for row in rows:
        if as_json:
            print(encode(dict(row)), flush=True)
        else:
            why = f"  {printable(row['status_reason'])}" if row["status_reason"] else ""
            print(f"{row['id']}  {row['workflow_id']}  {row['status']}  {row['progress']} %{why}", flush=True)
