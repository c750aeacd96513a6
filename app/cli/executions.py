"""`stepstream executions`: the commands that look at runs, and their options."""

from typing import Annotated

import typer

from app.cli.controls import controls
from app.cli.debugging import debugging
from app.cli.options import (
    EXIT_STATUSES,
    Access,
    AsJson,
    DataDir,
    Execution,
    Labels,
    Selection,
    Server,
    Since,
    Statuses,
    Token,
    Until,
    Workflow,
    example,
)

executions = typer.Typer(
    help="Look at runs, stop them, repair them, and find out why one is not moving.",
    epilog=EXIT_STATUSES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@executions.command("list", epilog=example("stepstream executions list --status failed --since 24h"))
def list_(
    status: Statuses = None,
    workflow: Workflow = None,
    label: Labels = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")] = 20,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List executions, the newest first."""
    from app.cli import reading as work

    wanted = Selection(status, workflow, label, since, until)
    raise typer.Exit(work.list_executions(wanted, limit, Access(server, token, data_dir), as_json=as_json))


@executions.command(epilog=example("stepstream executions show last", "stepstream executions show last --markdown"))
def show(
    execution: Execution,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a summary for a ticket.")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As a Mermaid graph.")] = False,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Show one execution with its steps, as a chart of their times."""
    from app.cli import reading as work

    if markdown + mermaid + as_json > 1:
        raise typer.BadParameter("choose one of --markdown, --mermaid and --json")
    form = "markdown" if markdown else "mermaid" if mermaid else "json" if as_json else "plain"
    raise typer.Exit(work.show(execution, form, Access(server, token, data_dir)))


@executions.command(
    epilog=example("stepstream executions watch last", "stepstream executions watch --workflow wf_sales")
)
def watch(
    execution: Annotated[
        str | None, typer.Argument(metavar="[ID|last]", help="An execution; without it, all that are under way.")
    ] = None,
    workflow: Workflow = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print events, or changes, as lines of JSON.")] = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Watch one execution live to its end and print its output, or keep a table of all that are under way."""
    from app.cli import watching as work

    access = Access(server, token, data_dir)
    if execution is None:
        raise typer.Exit(work.watch_all(workflow, access, as_json=as_json))
    if workflow is not None:
        raise typer.BadParameter("--workflow goes without an execution")
    raise typer.Exit(work.watch(execution, access, as_json=as_json))


@executions.command(epilog=example("stepstream executions explain last"))
def explain(
    execution: Execution,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Say why an execution is not moving, what must move first, and what to do about it."""
    from app.cli import insight as work

    raise typer.Exit(work.explain(execution, Access(server, token, data_dir), as_json=as_json))


@executions.command(epilog=example("stepstream executions diff last", "stepstream executions diff exec_01 exec_02"))
def diff(
    execution: Execution,
    other: Annotated[
        str | None,
        typer.Argument(metavar="[OTHER]", help="The other one; without it, it is compared with the last success."),
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Compare two executions: where they part, and how inputs, outputs, times and cost differ."""
    from app.cli import insight as work

    raise typer.Exit(work.diff(execution, other, Access(server, token, data_dir), as_json=as_json))


def _add_view(view: str, what_it_shows: str) -> None:
    @executions.command(view, help=what_it_shows, epilog=example(f"stepstream executions {view} last"))
    def show_view(
        execution: Execution,
        as_json: AsJson = False,
        server: Server = None,
        token: Token = None,
        data_dir: DataDir = None,
    ) -> None:
        from app.cli import insight as work

        show = {"timeline": work.timeline, "graph": work.graph, "lineage": work.lineage}[view]
        raise typer.Exit(show(execution, Access(server, token, data_dir), as_json=as_json))


_add_view("timeline", "Tell where the time of an execution went: queueing, attempts, backoff, waits, pauses.")
_add_view("graph", "Show the steps of an execution, what each needs, and the way that was taken.")
_add_view("lineage", "Show an execution with its retries, its replays, and what it started.")

executions.add_typer(controls)
executions.add_typer(debugging)
