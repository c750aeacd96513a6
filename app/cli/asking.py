"""`executions cancel`, `terminate`, `pause`, `resume`, `step` and `signal`."""

from typing import NamedTuple

from rich.text import Text

from app import clock
from app.cli.client import Client
from app.cli.connection import carry_out
from app.cli.naming import path_of
from app.cli.options import Access
from app.cli.run import parse_input
from app.cli.tables import show_json, status_text, wide_console
from app.domain.jsontext import JSON


class Letter(NamedTuple):
    """A signal as the options say it."""

    name: str
    payload: str | None
    dedupe_key: str | None


def ask(wish: str, execution: str, reason: str | None, access: Access, *, as_json: bool) -> int:
    """Ask something of an execution that is under way; the exit status."""

    async def work(client: Client) -> int:
        path = await path_of(client, execution, wish)
        record = await client.post(path, {"reason": reason}, repeatable=wish != "step")
        if as_json:
            show_json(record)
            return 0
        line = Text.assemble(record["id"], "  asked to ", wish, ", was ", status_text(record["status"]))
        wide_console().print(line, soft_wrap=True)
        return 0

    return carry_out(work, access)


def signal(execution: str, letter: Letter, access: Access, *, as_json: bool) -> int:
    """Send a signal and print its id; the exit status."""

    async def work(client: Client) -> int:
        # A key of its own makes it safe to repeat a request whose answer got lost.
        body: dict[str, JSON] = {"name": letter.name, "dedupe_key": letter.dedupe_key or clock.new_id("cli")}
        if letter.payload is not None:
            body["payload"] = parse_input(letter.payload, "--payload")
        sent = await client.post(await path_of(client, execution, "signal"), body, repeatable=True)
        if as_json:
            show_json(sent)
            return 0
        print(sent["signal_id"])
        if sent["duplicate"] and letter.dedupe_key is not None:
            wide_console(stderr=True).print("It was sent before, with the same key.", style="dim")
        return 0

    return carry_out(work, access)
