"""`stepstream approvals`: what waits for people."""

from typing import Annotated

import typer

from app.cli.options import EXIT_STATUSES, Access, AsJson, DataDir, Server, Token, example

approvals = typer.Typer(
    help="What waits for people. To decide: stepstream executions approve, reject.",
    epilog=EXIT_STATUSES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@approvals.command("list", epilog=example("stepstream approvals list --mine"))
def list_(
    status: Annotated[
        list[str] | None,
        typer.Option("--status", "-s", help="Of this status, or all \\[pending]; repeatable."),
    ] = None,
    execution: Annotated[
        str | None, typer.Option("--execution", "-e", metavar="ID|last", help="Only those of this execution.")
    ] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only what you may decide and have not decided yet.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")] = 50,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List approvals, the newest first."""
    from app.cli import deciding as work

    wanted = work.Wanted(status, execution, mine, limit)
    raise typer.Exit(work.list_approvals(wanted, Access(server, token, data_dir), as_json=as_json))


@approvals.command(epilog=example("stepstream approvals show appr_01"))
def show(
    approval: Annotated[str, typer.Argument(help="An approval's id.")],
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Show what is to be approved, its form, and the decisions so far."""
    from app.cli import deciding as work

    raise typer.Exit(work.show(approval, Access(server, token, data_dir), as_json=as_json))
