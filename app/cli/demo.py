"""`demo`: everything in one process, and a real workflow through the public API: HTTP, bearer token, WebSocket."""

import socket
from contextlib import AsyncExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

from app import clock
from app.cli.banner import Place, show_ways_in
from app.cli.client import Client
from app.cli.connection import TOKEN_SECONDS
from app.cli.deployment import for_embedded, load_settings, local_identity, with_local_origin
from app.cli.failures import CommandFailed
from app.cli.run import Watch, draw, ending, read_workflow, step_names, workflow_id
from app.cli.serving import bind, port_of, url_of
from app.cli.stopping import StopSignals, run_until_stopped
from app.cli.tables import show_audit, show_counters, show_leads, show_record, show_steps
from app.cli.up import local_server
from app.logs import configure_logs
from app.settings import Settings

BRIEF = "logistics and robotics around Berlin"
HOST = "127.0.0.1"
LOG_FILE = "demo.log"


def demo(data_dir: Path | None, port: int | None, *, leave: bool) -> int:
    """Boot, run the shipped workflow, show what is recorded; then serve on, or leave. 0 if the run completed."""
    settings = load_settings(data_dir=data_dir)
    if data_dir is None:
        settings = settings.model_copy(update={"data_dir": settings.data_dir / "demo"})
    with _bind(settings, port) as bound:
        here = {"host": HOST, "port": port_of(bound)}
        settings = for_embedded(with_local_origin(settings.model_copy(update=here)))
        settings.ensure_data_dir()
        _log_aside(settings.data_dir / LOG_FILE)
        return run_until_stopped(lambda signals: _demo(settings, bound, signals, leave=leave))


async def _demo(settings: Settings, bound: socket.socket, signals: StopSignals, *, leave: bool) -> int:
    console = Console(highlight=False)
    place = Place(url_of(settings.host, settings.port), settings.data_dir)
    console.print(Text.assemble("\n", ("Stepstream", "bold cyan"), "  a demo: everything here, nothing leaves\n"))
    async with AsyncExitStack() as stack:
        with signals.breaking_off():
            with console.status("Starting", spinner="dots") as status:
                told = Narrator(console, status)
                server = await stack.enter_async_context(local_server(settings, bound, told))
                async with local_identity(settings, server.admin_url) as identity:
                    token = await identity.issue_local_key(TOKEN_SECONDS)
            async with Client(place.url, token) as client:
                completed = await _show_run(console, client)
        if not leave:
            _show_what_next(console, place)
            show_ways_in(console, place, server.prepared.admin)
            console.print("\nServing on. Ctrl-C stops it; the data stays.\n", style="dim")
            await signals.asked.wait()
    console.print("Stopped.", style="dim")
    return 0 if completed else 1


async def _show_run(console: Console, client: Client) -> bool:
    with as_file(files("app.cli") / "sales_intelligence.yaml") as path:
        document = read_workflow(path)
        saved = await client.save_workflow(workflow_id(path, document), document)
    started = await client.start(saved["id"], {"input": BRIEF})
    path_of_run = f"/api/v1/executions/{started['id']}"
    console.print(
        Text.assemble(
            "\n▶ ", (saved["name"], "bold"), f"  version {saved['version']}, on “{BRIEF}”\n",
            ("  The agents are a stand-in: local text, no AI, no network.\n", "yellow"),
            (f"  POST /api/v1/workflows/{saved['id']}/execute → {started['status']}\n", "dim"),
            (f"  WS   {path_of_run}/stream\n", "dim"),
        ),
        soft_wrap=True,
    )  # fmt: skip
    watch = Watch(console, started["id"], step_names(saved["definition"]))
    record = await draw(client, watch)
    console.print(ending(record), soft_wrap=True)
    _show_records(console, record, *await _look_up(client, record))
    return bool(record["status"] == "COMPLETED")


async def _look_up(client: Client, record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The workflow's counters and the run's audit row, as the API shows them."""
    counters = await client.get(f"/workflows/{record['workflow_id']}/stats")
    query = {"action": "workflow.executed", "resource_id": record["workflow_id"]}
    rows = (await client.get("/audit-logs", **query))["data"]
    row = next((row for row in rows if row["details"].get("execution_id") == record["id"]), None)
    if row is None:
        raise CommandFailed(f"The audit log has no row for {record['id']}")
    return counters, row


def _show_records(
    console: Console, record: dict[str, Any], counters: dict[str, Any], audit_row: dict[str, Any]
) -> None:
    show_record(console, record)
    show_steps(console, record["steps"])
    show_leads(console, record["output"])
    show_counters(console, counters)
    show_audit(console, audit_row)


def _show_what_next(console: Console, place: Place) -> None:
    console.print(Text.assemble(("It is all still here", "bold"), f", at {place.url}\n"))


class Narrator:
    """Says what the start has got done, and how long each part took."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status
        self._since = clock.monotonic()

    def __call__(self, done: str, following: str) -> None:
        now = clock.monotonic()
        line = Text.assemble(("  ✓  ", "green"), done.ljust(44), (f"{now - self._since:.1f} s", "dim"))
        self._console.print(line, soft_wrap=True)
        self._status.update(following)
        self._since = now


def _bind(settings: Settings, port: int | None) -> socket.socket:
    if port is not None:
        return bind(HOST, port)
    try:
        return bind(HOST, settings.port)
    except CommandFailed:
        return bind(HOST, 0)


def _log_aside(path: Path) -> None:
    """Warnings go to a file: the screen belongs to the run."""
    configure_logs("human", "warning", path.open("a", encoding="utf-8"))
