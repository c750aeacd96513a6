"""`executions explain`, `diff`, `timeline`, `graph` and `lineage`."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.text import Text

from app.cli.client import Client
from app.cli.connection import carry_out
from app.cli.drawing import moment, printable
from app.cli.insight_views import show_diff, show_graph, show_lineage, show_timeline
from app.cli.naming import execution_id, path_of
from app.cli.options import Access
from app.cli.tables import show_json, status_text, wide_console

REMEDIES = {
    "paused": "resume {id}",
    "stepping": "step {id}",
    "breakpoint": "resume {id}",
    "approval": "approve {blocker}",
    "signal": "signal {id} {blocker}",
    "child": "explain {blocker}",
}
"""What to do about a code, as a command."""


def explain(execution: str, access: Access, *, as_json: bool) -> int:
    """Print why an execution is not moving; the exit status."""

    async def work(client: Client) -> int:
        found = await client.get(await path_of(client, execution, "explain"))
        if as_json:
            show_json(found)
        else:
            _show_explanation(wide_console(), found)
        return 0

    return carry_out(work, access)


def diff(execution: str, other: str | None, access: Access, *, as_json: bool) -> int:
    """Print how two executions differ; the exit status."""

    async def work(client: Client) -> int:
        below = ["diff"] if other is None else ["diff", quote(await execution_id(client, other), safe="")]
        found = await client.get(await path_of(client, execution, *below))
        if as_json:
            show_json(found)
        else:
            show_diff(wide_console(), found)
        return 0

    return carry_out(work, access)


def timeline(execution: str, access: Access, *, as_json: bool) -> int:
    """Print where the time of an execution went; the exit status."""

    async def work(client: Client) -> int:
        found = await client.get(await path_of(client, execution, "timeline"))
        if as_json:
            show_json(found)
        else:
            show_timeline(wide_console(), found)
        return 0

    return carry_out(work, access)


def graph(execution: str, access: Access, *, as_json: bool) -> int:
    """Print the steps of an execution and the way it took; the exit status."""

    async def work(client: Client) -> int:
        found = await client.get(await path_of(client, execution, "graph"))
        if as_json:
            show_json(found)
        else:
            show_graph(wide_console(), found)
        return 0

    return carry_out(work, access)


def lineage(execution: str, access: Access, *, as_json: bool) -> int:
    """Print an execution with what was made from it, and what it was made from; the exit status."""

    async def work(client: Client) -> int:
        known = await execution_id(client, execution)
        found = await client.get(await path_of(client, known, "lineage"))
        if as_json:
            show_json(found)
        else:
            show_lineage(wide_console(), found, known)
        return 0

    return carry_out(work, access)


def _show_explanation(console: Console, found: Mapping[str, Any]) -> None:
    code = (f"{found['code']}: ", "bold")
    console.print(Text.assemble(status_text(found["status"]), "  ", code, printable(found["message"])), soft_wrap=True)
    if found["moves_at"]:
        console.print(f"It moves by itself at {moment(found['moves_at'])} at the latest.", soft_wrap=True)
    blocker = found["blocker"]
    if blocker:
        console.print(f"Blocked by the {blocker['type']} {printable(blocker['id'])}: {blocker['url']}", soft_wrap=True)
    remedy = REMEDIES.get(found["code"])
    if remedy and (blocker or "{blocker}" not in remedy):
        command = remedy.format(id=found["execution_id"], blocker=blocker and printable(blocker["id"]))
        console.print(f"To go on: stepstream executions {command}", soft_wrap=True)
