"""What the API recorded, as tables for a terminal."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli.drawing import NOTHING, moment, printable

_STATUS_STYLES = {
    "COMPLETED": "green", "APPROVED": "green", "FAILED": "red", "REJECTED": "red", "SKIPPED": "dim", "PENDING": "dim",
    "CANCELLED": "magenta", "EXPIRED": "magenta", "RUNNING": "cyan",
}  # fmt: skip
_UNBOUNDED = 1_000
_WIDE = 120


def show_record(console: Console, record: Mapping[str, Any]) -> None:
    """One execution's record."""
    _headline(console, "The record", f"GET /api/v1/executions/{record['id']}")
    lines = pairs()
    lines.add_row("status", status_text(record["status"]), "created", moment(record["created_at"]))
    lines.add_row("progress", f"{record['progress']} %", "started", moment(record["started_at"]))
    lines.add_row("duration", f"{record['duration_seconds']:.3f} s", "completed", moment(record["completed_at"]))
    lines.add_row("tokens", f"{record['tokens_used']:,}", "cost", f"${record['cost']:.4f}")
    console.print(lines)


def show_steps(console: Console, steps: Sequence[Mapping[str, Any]]) -> None:
    """The steps of one execution."""
    table = table_of("", "step", "type", "status", ">attempts", ">time")
    for step in steps:
        took = step["execution_time_ms"]
        table.add_row(
            str(step["step_number"]),
            printable(step["name"]),
            step["type"],
            status_text(step["status"]),
            str(step["attempt"] or NOTHING),
            NOTHING if took is None else f"{took:,.1f} ms",
        )
    console.print(table)


def show_leads(console: Console, output: Mapping[str, Any] | None) -> None:
    """The output of the sales-intelligence workflow."""
    if output is None:
        return
    table = table_of("lead", "contact", ">score", "")
    for lead in output["leads"]:
        table.add_row(
            lead["company"], lead["contact"], f"{lead['score']:.2f}", Text("hot" if lead["hot"] else "", "red")
        )
    console.print(table)


def show_counters(console: Console, stats: Mapping[str, Any]) -> None:
    """A workflow's lifetime counters."""
    _headline(console, "The workflow's counters", f"GET /api/v1/workflows/{stats['workflow_id']}/stats")
    lines = pairs()
    lines.add_row("executions", str(stats["execution_count"]), "completed", str(stats["success_count"]))
    lines.add_row("failed", str(stats["failure_count"]), "cancelled", str(stats["cancelled_count"]))
    console.print(lines)
    console.print()


def show_audit(console: Console, row: Mapping[str, Any]) -> None:
    """One audit row."""
    _headline(console, "The audit row", "GET /api/v1/audit-logs?action=workflow.executed")
    lines = pairs()
    lines.add_row("action", row["action"], "at", moment(row["timestamp"]))
    lines.add_row("by", row["user_id"], "from", f"{row['ip_address']}, {printable(row['user_agent'])}")
    lines.add_row("on", row["resource_id"], "success", "yes" if row["success"] else f"no: {row['error_message']}")
    console.print(lines)
    console.print()


def _headline(console: Console, title: str, call: str) -> None:
    console.print(Text.assemble((title, "bold"), "   ", (call, "dim")), soft_wrap=True)


def pairs() -> Table:
    """A grid of names and values, two to a line."""
    lines = Table.grid(padding=(0, 2))
    for style in ("dim", "", "dim", ""):
        lines.add_column(style=style, no_wrap=True)
    lines.columns[1].min_width = 24
    return lines


def table_of(*heads: str) -> Table:
    """An empty table; a head beginning with `>` is that of a column of numbers, with `~` of one that may wrap."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for head in heads:
        wraps = head.startswith("~")
        justify: Literal["left", "right"] = "right" if head.startswith(">") else "left"
        table.add_column(
            head.lstrip(">~"), justify=justify, no_wrap=not wraps, overflow="fold" if wraps else "ellipsis"
        )
    return table


def status_text(status: str | None) -> Text:
    """A status in its colour."""
    return Text(NOTHING, "dim") if status is None else Text(status, _STATUS_STYLES.get(status, "yellow"))


def wide_console(*, stderr: bool = False) -> Console:
    """stdout, or stderr; where it is no terminal, lines are as long as they are."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def is_wide(console: Console) -> bool:
    """Whether tables may have more than what matters most."""
    return console.width >= _WIDE


def show_json(value: object) -> None:
    """An answer of the API, for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
