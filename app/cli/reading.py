"""`executions list` and `show`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from app.cli.client import Client
from app.cli.connection import carry_out
from app.cli.drawing import NOTHING, moment, printable
from app.cli.naming import path_of, query_of
from app.cli.options import Access, Selection
from app.cli.tables import is_wide, show_json, status_text, table_of, wide_console

FORMS = {"plain": "text/plain", "markdown": "text/markdown", "mermaid": "text/vnd.mermaid"}


def list_executions(wanted: Selection, limit: int, access: Access, *, as_json: bool) -> int:
    """Print the newest executions that match; the exit status."""

    async def work(client: Client) -> int:
        page = await client.pages("/executions", limit, **query_of(wanted))
        if as_json:
            show_json({"data": page["data"], "has_more": page["has_more"]})
            return 0
        console = wide_console()
        if not page["data"]:
            console.print("No execution matches.")
            return 0
        console.print(executions_table(page["data"], wide=is_wide(console)))
        if page["has_more"]:
            console.print(f"There are more than {limit}: --limit shows them.", style="dim")
        return 0

    return carry_out(work, access)


def show(execution: str, form: str, access: Access) -> int:
    """Print one execution in one of FORMS, or as JSON; the exit status."""

    async def work(client: Client) -> int:
        path = await path_of(client, execution)
        if form == "json":
            show_json(await client.get(path))
            return 0
        for line in (await client.text(path, FORMS[form])).splitlines():
            print(printable(line))
        return 0

    return carry_out(work, access)


def executions_table(rows: Sequence[Mapping[str, Any]], *, wide: bool) -> Table:
    """Executions, a line each."""
    table = table_of("id", "~workflow", "status", ">progress", ">time", *(("created", "~") if wide else ()))
    for row in rows:
        table.add_row(
            row["id"],
            row["workflow_id"],
            status_text(row["status"]),
            f"{row['progress']} %",
            seconds(row["duration_seconds"]),
            *((moment(row["created_at"])[:19], note(row)) if wide else ()),
        )
    return table


def note(row: Mapping[str, Any]) -> str:
    """What there is to say of an execution in a list: its error, or why it is as it is."""
    if row["error_code"]:
        return printable(f"{row['error_code']}: {row['error'] or row['status_message'] or ''}")
    if row["wake_at"]:
        return f"until {moment(row['wake_at'])}"
    return printable(row["status_message"] or row["status_reason"] or "")


def seconds(value: float | None) -> str:
    """A span of time."""
    return NOTHING if value is None else f"{value:,.2f} s"
