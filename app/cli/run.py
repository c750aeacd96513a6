"""`run` and `follow`: a workflow over the public API, watched live. stdout gets the output alone."""

import asyncio
import json
import re
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from rich.console import Console
from rich.text import Text

from app.cli.client import Client
from app.cli.connection import INTERRUPTED, connected
from app.cli.drawing import RunView, printable
from app.cli.failures import CommandFailed
from app.cli.naming import start_of
from app.cli.options import Access, Limits
from app.domain.jsontext import JSON, NotJson, decode
from app.logs import configure_logs

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_JSON_STARTS = ("{", "[", '"')
_ID_LENGTH = 64


@dataclass(slots=True)
class Watch:
    """One command's view of one run: which execution it is about, once that is known."""

    console: Console
    execution_id: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)


class Start(NamedTuple):
    """How to start it, as the options say it."""

    input: str | None
    start_at: str | None
    breakpoints: list[str] | None
    pins: list[str] | None
    limits: Limits

    def body(self) -> dict[str, JSON]:
        """The request, with what is given alone; raises CommandFailed."""
        found: dict[str, JSON] = {"input": parse_input(self.input)}
        if self.start_at is not None:
            found["start_at"] = start_of(self.start_at)
        if self.breakpoints:
            found["breakpoints"] = [*self.breakpoints]
        if self.pins:
            found["pins"] = pins_of(self.pins)
        if limits := self.limits.given():
            found["budget"] = {**limits}
        return found


def run(workflow: str, start: Start, access: Access) -> int:
    """Run a workflow given by file or id; 0 if it completes, else 1."""
    wanted = start.body()
    path = Path(workflow)
    document = read_workflow(path) if path.suffix.lower() in _SUFFIXES or path.is_file() else None

    async def work(client: Client, watch: Watch) -> int:
        if document is None:
            saved = await client.get(f"/workflows/{quote(workflow, safe='')}")
        else:
            saved = await client.save_workflow(workflow_id(path, document), document)
        started = await client.start(saved["id"], wanted)
        watch.execution_id = started["id"]
        watch.names = step_names(saved["definition"])
        title = Text.assemble("▶ ", (printable(saved["name"]), "bold"), f"  version {started['workflow_version']}")
        watch.console.print(title.append(f"  {watch.execution_id}", "dim"), soft_wrap=True)
        return await watch_to_end(client, watch)

    return _watching(work, access)


def follow(execution_id: str, access: Access) -> int:
    """Watch an execution that was started elsewhere; 0 if it completes, else 1."""

    async def work(client: Client, watch: Watch) -> int:
        await aim(client, watch, execution_id)
        return await watch_to_end(client, watch)

    return _watching(work, access)


async def aim(client: Client, watch: Watch, execution_id: str) -> None:
    """Make the watch about an execution that exists; raises Refused."""
    found = await client.get(f"/executions/{quote(execution_id, safe='')}")
    watch.execution_id = found["id"]
    watch.names = {step["id"]: step["name"] for step in found["steps"]}


async def watch_to_end(client: Client, watch: Watch) -> int:
    """Draw the run until it is over, print its output; the exit code."""
    record = await draw(client, watch)
    watch.console.print(ending(record), soft_wrap=True)
    if record["status"] != "COMPLETED":
        return 1
    print(json.dumps(record["output"], indent=2, ensure_ascii=False))
    return 0


async def draw(client: Client, watch: Watch) -> dict[str, Any]:
    """Draw the run until it is over; its record."""
    if watch.execution_id is None:
        raise ValueError("there is no execution to watch yet")
    with RunView(watch.console, watch.names) as view:
        async with aclosing(client.follow(watch.execution_id, view.cut)) as events:
            async for event in events:
                view.show(event)
    return await client.get(f"/executions/{watch.execution_id}")


def ending(record: Mapping[str, Any]) -> Text:
    """How it ended, in a line."""
    duration = f"{record['duration_seconds'] or 0:.2f} s"
    if record["status"] == "COMPLETED":
        return Text.assemble("\n", ("✓ completed", "bold green"), f" in {duration}\n")
    word, cause = str(record["status"]).lower(), printable(record["error"] or record["status_message"] or "")
    code = f"  ({record['error_code']})" if record["error_code"] else ""
    return Text.assemble("\n", (f"✗ {word}", "bold red"), f" after {duration}: {cause}", (code, "dim"), "\n")


def step_names(definition: Mapping[str, Any]) -> dict[str, str]:
    """The names of a definition's steps by id."""
    return {step["id"]: step.get("name") or step["id"] for step in definition["steps"]}


def parse_input(text: str | None, option: str = "--input") -> JSON:
    """`@file` or `@-` is read; JSON is JSON, anything else is text, unless it looks like JSON gone wrong."""
    if text is None:
        return None
    if text == "@-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandFailed(f"{option}: {error}") from error
    try:
        return decode(text)
    except NotJson as error:
        if text.lstrip().startswith(_JSON_STARTS):
            raise CommandFailed(f"{option} looks like JSON but is none: {error}") from error
        return text


def pins_of(given: Iterable[str], option: str = "--pin") -> dict[str, JSON]:
    """Outputs by step, given as STEP=JSON; raises CommandFailed."""
    pins = {}
    for text in given:
        step, equals, value = text.partition("=")
        if not step or not equals:
            raise CommandFailed(f"{option}: {text} is not STEP=JSON")
        pins[step] = parse_input(value, f"{option} {step}")
    return pins


def read_workflow(path: Path) -> dict[str, JSON]:
    """The document in a file, read by the rules of the server."""
    from app.api.documents import parse_yaml

    try:
        body = path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"The workflow cannot be read: {error}") from error
    try:
        document = decode(body) if path.suffix.lower() == ".json" else parse_yaml(body)
    except NotJson as error:
        raise CommandFailed(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CommandFailed(f"{path} is no workflow: it begins with `name:` and has `steps:`")
    return document


def workflow_id(path: Path, document: Mapping[str, JSON]) -> str:
    """The document's own id, else one made of the file's name."""
    own = document.get("id")
    if isinstance(own, str):
        return own
    return f"wf_{re.sub(r'[^A-Za-z0-9_]+', '_', path.stem)}"[:_ID_LENGTH]


Work = Callable[[Client, Watch], Coroutine[Any, Any, int]]


def _watching(work: Work, access: Access) -> int:
    configure_logs("human", "warning")
    watch = Watch(Console(stderr=True, highlight=False))

    async def with_client() -> int:
        async with connected(access) as client:
            return await work(client, watch)

    try:
        return asyncio.run(with_client())
    except KeyboardInterrupt:
        say_how_to_go_on(watch, access)
        return INTERRUPTED


def say_how_to_go_on(watch: Watch, access: Access) -> None:
    """What to know after an interruption."""
    if watch.execution_id is None:
        watch.console.print("\nInterrupted before anything was started.")
        return
    watch.console.print(
        f"\nThe run goes on without you. Watch it again: stepstream follow {watch.execution_id}{access.options}",
        soft_wrap=True,
    )
