"""`audit verify`."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from app.cli.client import Client
from app.cli.connection import carry_out
from app.cli.drawing import printable
from app.cli.options import Access
from app.cli.tables import show_json, wide_console

_BROKEN = 1


def verify(after: str | None, access: Access, *, as_json: bool) -> int:
    """Verify the chain, stretch by stretch, and print what was found; the exit status."""

    async def work(client: Client) -> int:
        found = await _whole(client, after)
        if as_json:
            show_json(found)
        else:
            _show(wide_console(), found)
        return 0 if found["sound"] else _BROKEN

    return carry_out(work, access)


async def _whole(client: Client, after: str | None) -> dict[str, Any]:
    """All stretches as one."""
    seals = rows = 0
    while True:
        found = await client.get("/audit-logs/verify", **({} if after is None else {"after": after}))
        seals, rows, after = seals + found["seals"], rows + found["rows"], found["head"]
        if found["complete"] or not found["sound"]:
            return found | {"seals": seals, "rows": rows}


def _show(console: Console, found: Mapping[str, Any]) -> None:
    sum_up = f"{found['rows']} rows under {found['seals']} seals are what they were; {found['unsealed']} not sealed yet"
    console.print(Text.assemble(("✓ ", "green"), sum_up))
    if (broken := found["first_broken"]) is not None:
        row = f", row {printable(broken['audit_id'])}" if broken["audit_id"] else ""
        console.print(Text.assemble(("✗ ", "red"), f"{broken['meaning']} (seal {broken['seal']}{row})"))
    console.print(Text.assemble(("Head  ", "dim"), found["head"]), soft_wrap=True)
