"""`stepstream secrets`: values that workflows send and nobody reads. `stepstream keys`: what seals them."""

from typing import Annotated

import typer

from app.cli.options import EXIT_STATUSES, Access, AsJson, DataDir, Server, Token, example

secrets = typer.Typer(
    help="Values that workflows send and nobody reads, such as API keys.",
    epilog=EXIT_STATUSES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)
keys = typer.Typer(help="What seals the secrets.", epilog=EXIT_STATUSES, no_args_is_help=True, rich_markup_mode="rich")

Name = Annotated[str, typer.Argument(help="The secret's name.")]


@secrets.command("list", epilog=example("stepstream secrets list"))
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")] = 50,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List what is known of the secrets, by name; their values are never shown."""
    from app.cli import keeping as work

    raise typer.Exit(work.list_secrets(limit, Access(server, token, data_dir), as_json=as_json))


@secrets.command("set", epilog=example("stepstream secrets set stripe --host api.stripe.com < stripe.key"))
def set_(
    name: Name,
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="HOST",
            help="Where it may be sent: api.example.com, *.example.com, host:8443; repeatable \\[as before].",
        ),
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Make a secret, or give it a new value, which is read from stdin or asked for."""
    from app.cli import keeping as work

    raise typer.Exit(work.set_secret(name, hosts, Access(server, token, data_dir), as_json=as_json))


@secrets.command(epilog=example("stepstream secrets delete stripe"))
def delete(name: Name, server: Server = None, token: Token = None, data_dir: DataDir = None) -> None:
    """Delete a secret for good; steps that need it fail from then on."""
    from app.cli import keeping as work

    raise typer.Exit(work.delete_secret(name, Access(server, token, data_dir)))


@keys.command(epilog=example("STEPSTREAM_PREVIOUS_SECRET_KEY_FILE=old.key stepstream keys rotate"))
def rotate(data_dir: DataDir = None) -> None:
    """After a change of the master secret: seal all secrets under the new one. May be cut short and repeated."""
    from app.cli import keeping as work

    raise typer.Exit(work.rotate_keys(data_dir))
