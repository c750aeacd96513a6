"""What the API tells about runs, for a terminal."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from app.cli.drawing import NOTHING, moment, printable
from app.cli.reading import seconds
from app.cli.tables import status_text, table_of
from app.domain.jsontext import encode

SHOWN = 20
"""Changes of one value that are shown."""

_LONGEST_VALUE = 120
_EDGES = {True: ("✓", "green"), False: ("✗", "dim"), None: ("·", "dim")}
_SIGNS = {"add": "+", "remove": "-"}
_KINSHIP = {"retry_of": "retry", "forked_from": "replay", "parent_id": "child"}


def show_diff(console: Console, found: Mapping[str, Any]) -> None:
    """Two executions side by side, where they part, and what differs."""
    left, right = found["left"], found["right"]
    table = table_of("", "~left", "~right", ">difference")
    table.add_row("id", left["id"], right["id"], "")
    table.add_row("status", status_text(left["status"]), status_text(right["status"]), "")
    table.add_row("version", f"{left['workflow_version']}", f"{right['workflow_version']}", "")
    delta = found["duration_delta_seconds"]
    spans = (seconds(left["duration_seconds"]), seconds(right["duration_seconds"]))
    table.add_row("time", *spans, NOTHING if delta is None else f"{delta:+,.2f} s")
    table.add_row("tokens", f"{left['tokens_used']:,}", f"{right['tokens_used']:,}", f"{found['tokens_delta']:+,}")
    table.add_row("cost", f"${left['cost']:.4f}", f"${right['cost']:.4f}", f"{found['cost_delta']:+.4f}")
    console.print(table)
    parting = found["first_divergence"]
    if parting is None:
        console.print("No step went another way.")
    else:
        told = Text.assemble(("They part at ", "bold"), (parting["step_id"], "bold yellow"), f" ({parting['what']}): ")
        console.print(told.append(printable(parting["detail"])), soft_wrap=True)
    _show_changes(console, "input", found["input_patch"])
    _show_changes(console, "output", found["output_patch"])
    _show_changes(console, "workflow", found["definition_changes"])
    for step in found["steps"]:
        _show_step(console, step)
    if found["cut"]:
        console.print(f"Too large to be shown in full: {', '.join(found['cut'])}", style="dim", soft_wrap=True)


def _show_step(console: Console, step: Mapping[str, Any]) -> None:
    left, right = step["left_status"], step["right_status"]
    if left != right:
        console.print(
            Text.assemble((step["step_id"], "bold"), ": ", status_text(left), " → ", status_text(right)), soft_wrap=True
        )
    _show_changes(console, f"{step['step_id']} input", step["input_patch"])
    _show_changes(console, f"{step['step_id']} output", step["output_patch"])


def _show_changes(console: Console, what: str, patch: Sequence[Mapping[str, Any]] | None) -> None:
    if not patch:
        return
    console.print(Text(f"{what}:", "bold"))
    for operation in patch[:SHOWN]:
        sign = _SIGNS.get(operation["op"], "~")
        value = "" if operation["op"] == "remove" else f" = {shortened(operation.get('value'))}"
        colour = {"+": "green", "-": "red"}.get(sign, "yellow")
        console.print(Text(f"  {sign} {printable(operation['path'] or '/')}{value}", colour), soft_wrap=True)
    if len(patch) > SHOWN:
        console.print(f"  … and {len(patch) - SHOWN} more: --json shows them", style="dim")


def show_timeline(console: Console, found: Mapping[str, Any]) -> None:
    """The spans of a run in their order, from its creation on."""
    created = datetime.fromisoformat(found["created_at"])
    table = table_of("~step", "", ">from", ">time", ">attempt", "status", "~reason")
    for span in found["spans"]:
        begun = datetime.fromisoformat(span["from"])
        ended = None if span["to"] is None else datetime.fromisoformat(span["to"])
        table.add_row(
            Text("the run", "dim") if span["step_id"] is None else span["step_id"],
            span["kind"],
            f"+{(begun - created).total_seconds():.3f} s",
            "goes on" if ended is None else f"{(ended - begun).total_seconds():.3f} s",
            str(span["attempt"] or ""),
            status_text(span["status"]) if span["status"] else "",
            printable(span["reason"] or ""),
        )
    line = Text.assemble(found["execution_id"], "  ", status_text(found["status"]))
    console.print(line.append(f"  created {moment(found['created_at'])}", "dim"), soft_wrap=True)
    console.print(table)
    if found["cut"]:
        console.print("There is more than is shown.", style="dim")


def show_graph(console: Console, found: Mapping[str, Any]) -> None:
    """The steps in their order, each with its needs: taken, not taken, not decided yet."""
    needs: dict[str, Text] = {}
    for edge in found["edges"]:
        mark, style = _EDGES[edge["taken"]]
        named = edge["from"] + (f".{edge['port']}" if edge["port"] else "")
        needs.setdefault(edge["to"], Text()).append(f"{mark} {named}  ", style)
    table = table_of(">", "~step", "type", "status", ">attempts", ">time", "~needs")
    for node in found["nodes"]:
        took = node["duration_ms"]
        table.add_row(
            str(node["step_number"]),
            node["id"],
            node["type"],
            status_text(node["status"]),
            str(node["attempts"] or NOTHING),
            NOTHING if took is None else f"{took:,.1f} ms",
            needs.get(node["id"], Text()),
        )
    console.print(Text.assemble(found["execution_id"], "  ", status_text(found["status"])), soft_wrap=True)
    console.print(table)


def show_lineage(console: Console, found: Mapping[str, Any], known: str) -> None:
    """A tree of executions; `known` is the one asked about."""
    rows = {row["id"]: row for row in found["data"]}
    branches: dict[str, Tree] = {}
    trunks = []
    # The oldest comes first, so what a run was made from is in the tree before the run is.
    for row in found["data"]:
        origin, kinship = next(((row[name], word) for name, word in _KINSHIP.items() if row[name] in rows), (None, ""))
        branch = Tree(_kin_line(row, kinship, here=row["id"] == known))
        branches[row["id"]] = branch
        if origin is not None and origin in branches:
            branches[origin].children.append(branch)
        else:
            trunks.append(branch)
    for trunk in trunks:
        console.print(trunk, soft_wrap=True)


def _kin_line(row: Mapping[str, Any], kinship: str, *, here: bool) -> Text:
    line = Text.assemble((f"{kinship} " if kinship else "", "dim"), (row["id"], "bold" if here else ""), "  ")
    line.append_text(status_text(row["status"])).append(f"  {row['workflow_id']}  {moment(row['created_at'])}", "dim")
    return line.append("  ← this one") if here else line


def shortened(value: Any) -> str:
    """A value as JSON in a line, or its beginning."""
    text = printable(encode(value))
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
