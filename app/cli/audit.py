"""`stepstream audit`: whether the audit log is what it was."""

from typing import Annotated

import typer

from app.cli.options import Access, AsJson, DataDir, Server, Token, example

audit = typer.Typer(
    help="Whether the audit log is what it was.",
    epilog="\n\n".join(
        (
            "[bold]Exit status[/bold]",
            "0  nothing that was sealed has been changed",
            "1  something has",
            "2  refused, wrong usage, or no server",
        )
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@audit.callback()
def group() -> None:
    """Keep `verify` a command of its own."""


@audit.command(epilog=example("stepstream audit verify", "stepstream audit verify --after 85:9cb6062a…"))
def verify(
    after: Annotated[
        str | None,
        typer.Option(metavar="HEAD", help="A head of before: whether the chain still contains it, and what is behind."),
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Hold the organisation's chain of seals against every row, and print its head: keep that elsewhere."""
    from app.cli import auditing as work

    raise typer.Exit(work.verify(after, Access(server, token, data_dir), as_json=as_json))
