"""The commands and their options. Each imports its work when it runs, so that help costs nothing."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.approvals import approvals
from app.cli.audit import audit
from app.cli.executions import executions
from app.cli.options import (
    Access,
    Breakpoints,
    DataDir,
    Limits,
    MaxCost,
    MaxDuration,
    MaxSteps,
    MaxTokens,
    Pins,
    Server,
    Token,
)
from app.cli.secrets import keys, secrets

cli = typer.Typer(
    name="stepstream",
    help="Runs multi-step workflows, streams every step live and keeps a durable record of each run.",
    epilog="\n\n".join(
        (
            "[bold]Try it[/bold]   stepstream demo",
            "[bold]Serve[/bold]    stepstream up",
            '[bold]Run one[/bold]  stepstream run workflow.yaml --input \'{"city": "Berlin"}\'',
            "[bold]Look[/bold]     stepstream executions show last",
            '[bold]Script[/bold]   curl -H "Authorization: Bearer $(stepstream token)" localhost:8000/api/v1/workflows',
        )
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.add_typer(executions, name="executions")
cli.add_typer(approvals, name="approvals")
cli.add_typer(audit, name="audit")
cli.add_typer(secrets, name="secrets")
cli.add_typer(keys, name="keys")

Host = Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on, 0 for any free one [8000].")]


def run_command_line() -> None:
    """Run the command that the arguments name, and end the process with its exit code."""
    try:
        cli()
    except Exception as error:  # noqa: BLE001 - a person gets a sentence, not a traceback
        from app.cli.failures import report

        report(error)
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"stepstream {version('stepstream')}")
        raise typer.Exit


@cli.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """The options of all commands."""


@cli.command()
def up(data_dir: DataDir = None, host: Host = None, port: Port = None) -> None:
    """Start everything on this machine: embedded Postgres, migrations, server."""
    from app.cli import up as work

    raise typer.Exit(work.up(data_dir, host, port))


@cli.command()
def serve(
    host: Host = None,
    port: Port = None,
    migrate: Annotated[bool, typer.Option("--migrate", help="Migrate the database first.")] = False,
) -> None:
    """Start a server on the Postgres that DATABASE_URL names; any number of them may share it."""
    from app.cli import up as work

    raise typer.Exit(work.serve(host, port, migrate_first=migrate))


@cli.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database to this version: DATABASE_URL's, or the embedded one with --data-dir or without that URL."""
    from app.cli import up as work

    raise typer.Exit(work.migrate(data_dir))


@cli.command(
    epilog="\n\n".join(
        (
            "[bold]Exit status[/bold]",
            "0  every rule holds",
            "1  a rule is broken",
            "2  it could not be told: no database, another version's schema, or a rule that took too long",
        )
    )
)
def doctor(
    data_dir: DataDir = None,
    timeout: Annotated[str, typer.Option(help="How long one rule may take: 30s, 5m, 1h.")] = "5m",
    as_json: Annotated[bool, typer.Option("--json", help="Print every rule and what breaks it, for programs.")] = False,
) -> None:
    """Check that the record is sound: DATABASE_URL's, or the embedded one's. It changes nothing."""
    from app.cli import doctor as work

    raise typer.Exit(work.doctor(data_dir, timeout, as_json=as_json))


@cli.command()
def token(
    data_dir: DataDir = None,
    ttl: Annotated[str, typer.Option(help="How long it is valid: 30m, 24h, 7d.")] = "24h",
) -> None:
    """Print an API key of the local admin, and nothing else."""
    from app.cli import access as work

    raise typer.Exit(work.token(data_dir, ttl))


@cli.command()
def run(
    workflow: Annotated[
        str, typer.Argument(metavar="FILE|WORKFLOW_ID", help="A workflow's file (.yaml, .yml, .json), or its id.")
    ],
    value: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="JSON|@FILE|TEXT", help="The input; @- reads it from stdin."),
    ] = None,
    start_at: Annotated[
        str | None, typer.Option("--start-at", metavar="SPAN|TIME", help="Not before: 2h, 2030-01-01T06:00:00Z.")
    ] = None,
    breakpoints: Breakpoints = None,
    pins: Pins = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_steps: MaxSteps = None,
    max_duration: MaxDuration = None,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Run a workflow, watch it live, print its output. Exits with 0 if it completed, else with 1.

    A file is saved first, under its own `id` or wf_NAME, as a new version if it has changed.
    """
    from app.cli import run as work

    limits = Limits(max_cost, max_tokens, max_steps, max_duration)
    start = work.Start(value, start_at, breakpoints, pins, limits)
    raise typer.Exit(work.run(workflow, start, Access(server, token, data_dir)))


@cli.command()
def follow(
    execution_id: Annotated[str, typer.Argument(help="The id of an execution, running or over.")],
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Watch an execution from its beginning, like `run` does."""
    from app.cli import run as work

    raise typer.Exit(work.follow(execution_id, Access(server, token, data_dir)))


@cli.command()
def demo(
    leave: Annotated[bool, typer.Option("--exit", help="Stop afterwards instead of serving on.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", metavar="DIR", help="The demo's own directory [~/.stepstream/demo].")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on [8000, or a free one if that is taken].")
    ] = None,
) -> None:
    """Boot everything and watch a real workflow run, with a stand-in for the AI and no network."""
    from app.cli import demo as work

    raise typer.Exit(work.demo(data_dir, port, leave=leave))


@cli.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Under two minutes: fewer rounds, nothing large.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every measurement to a file.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Of throughput, latency, sequences, fan-out, streaming, memory, growth and waiting, only these.",
        ),
    ] = None,
) -> None:
    """Measure this version on this machine, on a Postgres of its own, beside the least that its record can cost."""
    from app.cli import bench as work

    raise typer.Exit(work.bench(only, json_file, quick=quick))


@cli.command(hidden=True)
def bench_program(name: str) -> None:
    """One of the programs that `bench` measures; it takes orders on stdin."""
    from app.cli import bench as work

    raise typer.Exit(work.run_program(name))


@cli.command()
def openapi() -> None:
    """Print the OpenAPI document of this version."""
    from app.cli import document as work

    raise typer.Exit(work.openapi())
