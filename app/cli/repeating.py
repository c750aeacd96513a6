"""`executions retry` and `replay`: a new execution made from an old one."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from app.cli.client import Client
from app.cli.connection import INTERRUPTED, carry_out
from app.cli.drawing import printable
from app.cli.naming import path_of
from app.cli.options import Access
from app.cli.run import Watch, aim, parse_input, pins_of, say_how_to_go_on, watch_to_end
from app.cli.tables import show_json
from app.domain.jsontext import JSON


class Repeat(NamedTuple):
    """What is done again."""

    from_step: str | None
    latest: bool
    redo_once: bool
    reason: str | None

    def body(self) -> dict[str, JSON]:
        return {
            "from_step": self.from_step,
            "version": "latest" if self.latest else "same",
            "redo_once": self.redo_once,
            "reason": self.reason,
        }


class Edits(NamedTuple):
    """What a replay does otherwise."""

    input: str | None
    pins: list[str]
    breakpoints: list[str]

    def body(self) -> dict[str, JSON]:
        """Only what is given: an input of null is another one than none."""
        found: dict[str, JSON] = {"breakpoints": [*self.breakpoints]}
        if self.input is not None:
            found["input"] = parse_input(self.input)
        if self.pins:
            found["pins"] = pins_of(self.pins)
        return found


class Output(NamedTuple):
    """What to do with the new execution."""

    follow: bool
    as_json: bool


def retry(execution: str, wanted: Repeat, access: Access, output: Output) -> int:
    """Repair an execution by a new one; the exit status."""
    return _repeat(execution, "retry", wanted.body, access, output)


def replay(execution: str, wanted: Repeat, edits: Edits, access: Access, output: Output) -> int:
    """Run an execution again as a new one; the exit status."""
    return _repeat(execution, "replay", lambda: wanted.body() | edits.body(), access, output)


def _repeat(execution: str, how: str, body: Callable[[], dict[str, JSON]], access: Access, output: Output) -> int:
    async def make(client: Client) -> dict[str, Any]:
        return await client.post(await path_of(client, execution, how), body(), repeatable=True)

    return follow_new(make, lambda made: f"{how} of {_origin(made)}", access, output)


def follow_new(
    make: Callable[[Client], Awaitable[dict[str, Any]]],
    what: Callable[[dict[str, Any]], str],
    access: Access,
    output: Output,
) -> int:
    """Print the id of an execution that `make` has made, or watch it to its end; the exit status."""
    watch = Watch(Console(stderr=True, highlight=False))

    async def work(client: Client) -> int:
        made = await make(client)
        if not output.follow:
            if output.as_json:
                show_json(made)
            else:
                print(made["id"])
            return 0
        watch.console.print(Text.assemble("▶ ", (made["id"], "bold"), f"  {what(made)}"), soft_wrap=True)
        await aim(client, watch, made["id"])
        return await watch_to_end(client, watch)

    status = carry_out(work, access)
    if status == INTERRUPTED:
        say_how_to_go_on(watch, access)
    return status


def _origin(made: dict[str, Any]) -> str:
    return printable(made["retry_of"] or made["forked_from"])
