"""`secrets list`, `set` and `delete`, `keys rotate`."""

import asyncio
import getpass
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from app.cli.client import Client, Refused
from app.cli.connection import carry_out
from app.cli.drawing import NOTHING, moment
from app.cli.failures import CommandFailed
from app.cli.options import Access
from app.cli.tables import show_json, table_of, wide_console
from app.domain.jsontext import JSON
from app.logs import configure_logs


def list_secrets(limit: int, access: Access, *, as_json: bool) -> int:
    """Print what is known of the secrets; the exit status."""

    async def work(client: Client) -> int:
        page = await client.pages("/secrets", limit)
        if as_json:
            show_json({"data": page["data"], "has_more": page["has_more"]})
        else:
            _show(page)
        return 0

    return carry_out(work, access)


def set_secret(name: str, hosts: Sequence[str] | None, access: Access, *, as_json: bool) -> int:
    """Make or replace a secret; the exit status."""
    value = _read_value(name)

    async def work(client: Client) -> int:
        known = await _known(client, name)
        allowed = hosts or (known and known["allowed_hosts"])
        if not allowed:
            raise CommandFailed(f"Say where '{name}' may be sent: --host api.example.com")
        body: dict[str, JSON] = {"value": value, "allowed_hosts": [*allowed]}
        if known is None:
            made = await client.post("/secrets", {"name": name, **body}, repeatable=False)
        else:
            made = await client.put(_path(name), body)
        if as_json:
            show_json(made)
        else:
            told = f"{made['name']} is at version {made['version']}, for {', '.join(made['allowed_hosts'])}."
            wide_console().print(told, soft_wrap=True)
        return 0

    return carry_out(work, access)


def delete_secret(name: str, access: Access) -> int:
    """Delete a secret; the exit status."""

    async def work(client: Client) -> int:
        await client.delete(_path(name))
        wide_console().print(f"{name} is deleted.", soft_wrap=True)
        return 0

    return carry_out(work, access)


def rotate_keys(data_dir: Path | None) -> int:
    """Seal all secrets under the present master secret; the exit status."""
    from app.cli.deployment import load_settings, reseal

    configure_logs("human", "warning")
    done, lost = asyncio.run(reseal(load_settings(data_dir=data_dir), data_dir))
    print(f"{done} sealed under the present master secret.")
    if lost:
        raise CommandFailed(
            f"{lost} cannot be opened: name the master secret they were sealed under in "
            "STEPSTREAM_PREVIOUS_SECRET_KEY_FILE, or set their values again"
        )
    return 0


def _read_value(name: str) -> str:
    """The value from stdin, without the line break at its end; on a terminal it is asked for, unseen."""
    if sys.stdin.isatty():
        return getpass.getpass(f"Value of {name}: ")
    try:
        return sys.stdin.read().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise CommandFailed("The value is not UTF-8 text; encode it first, for instance as base64") from None


async def _known(client: Client, name: str) -> dict[str, Any] | None:
    try:
        return await client.get(_path(name))
    except Refused as refusal:
        if refusal.status == httpx.codes.NOT_FOUND:
            return None
        raise


def _path(name: str) -> str:
    return f"/secrets/{quote(name, safe='')}"


def _show(page: Mapping[str, Any]) -> None:
    console = wide_console()
    if not page["data"]:
        console.print("There are no secrets. Make one: stepstream secrets set NAME --host HOST")
        return
    table = table_of("name", ">version", "ends in", "~for", "set", "by", "used")
    for row in page["data"]:
        table.add_row(
            row["name"],
            str(row["version"]),
            row["last4"] or NOTHING,
            ", ".join(row["allowed_hosts"]),
            moment(row["updated_at"])[:19],
            row["updated_by"],
            moment(row["last_used_at"])[:19],
        )
    console.print(table)
    if page["has_more"]:
        console.print("There are more: --limit shows them.", style="dim")
