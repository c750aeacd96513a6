"""The record of a benchmark as a person reads it."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.bench.figures import middle

LONG_ENOUGH = 0.5
"""Seconds of a turn from which on the system's own accounts of processor time are good enough."""

_STYLES = {"goal": "green", "floor": "yellow", "below": "red"}
_WORDS = {"goal": "goal", "floor": "short of the goal", "below": "below the floor"}


def show(console: Console, record: dict[str, Any]) -> None:
    """The table, what it was measured on, and whether it counts."""
    console.print(table(record))
    machine, postgres = record["machine"], record["postgres"]
    console.print(
        f"{machine['cpus']} x {machine['cpu']}, {machine['memory_gib']} GiB, Python {record['versions']['python']}, "
        f"Postgres {postgres['version']} (fsync {postgres['fsync']}, synchronous_commit "
        f"{postgres['synchronous_commit']}), {record['sizes']['rounds']} rounds, {record['minutes']} minutes.",
        style="dim",
    )
    settings = " ".join(f"{name}={value}" for name, value in record["server_settings"].items())
    console.print(f"Limits meant for people were lifted: {settings}", style="dim")
    if taken := [f"{name} {share:.0%}" for name, share in others(record).items()]:
        console.print(f"Others used of the processors, in the median turn: {', '.join(taken)}.", style="dim")
    for reason in record["void"]:
        console.print(f"This run is void. {reason}", style="bold red")


def table(record: dict[str, Any]) -> Table:
    """A line for each result, by scenario."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("", no_wrap=True)
    for heading in ("measured", "limit", "ratio", "goal", "floor"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("")
    for name, scenario in record["scenarios"].items():
        shown.add_row(Text(name, style="bold cyan"))
        for result in scenario["results"]:
            shown.add_row(*_cells(result))
    return shown


def _cells(result: dict[str, Any]) -> list[Text]:
    wanted, unit = result["wanted"], result["unit"]
    bound = "" if wanted is None else ("≥ " if wanted["higher"] else "≤ ")
    judged = "" if result["limit"] is not None else f" {unit}"
    return [
        Text(f"  {result['name']}"),
        Text(f"{figure(result['value'])} {unit}"),
        Text("" if result["limit"] is None else f"{figure(result['limit'])} {unit}"),
        Text("" if result["ratio"] is None else f"{result['ratio']:.2f}", style=_STYLES.get(result["verdict"], "")),
        Text("" if wanted is None else f"{bound}{wanted['goal']:g}{judged}"),
        Text("" if wanted is None or wanted["floor"] is None else f"{bound}{wanted['floor']:g}{judged}"),
        Text(_WORDS.get(result["verdict"], "") or result["note"], style=_STYLES.get(result["verdict"], "dim")),
    ]


def figure(value: float) -> str:
    """With as many digits as mean something."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def others(record: dict[str, Any]) -> dict[str, float]:
    """By scenario, what others took of the processors; with much of it, rates say little and ratios less than usual."""
    shares = {name: _shares(scenario["measurements"]) for name, scenario in record["scenarios"].items()}
    return {name: middle(each) for name, each in shares.items() if each}


def _shares(part: Any) -> list[float]:
    if isinstance(part, dict):
        own = [part["others_share_of_cpu"]] if part.get("seconds", 0) >= LONG_ENOUGH else []
        return own + [share for inner in part.values() for share in _shares(inner)]
    if isinstance(part, list):
        return [share for inner in part for share in _shares(inner)]
    return []
