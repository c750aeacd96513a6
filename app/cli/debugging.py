"""`stepstream executions`: the commands that change a run under way, or try one step, and their options."""

from typing import Annotated

import typer

from app.cli.options import (
    Access,
    AsJson,
    DataDir,
    Execution,
    Follow,
    Limits,
    MaxCost,
    MaxDuration,
    MaxSteps,
    MaxTokens,
    Reason,
    Server,
    Token,
    example,
)

debugging = typer.Typer(rich_markup_mode="rich")

Step = Annotated[str, typer.Argument(help="The id of a step.")]


@debugging.command(
    epilog=example("stepstream executions budget last --max-cost 5", "stepstream executions resume last")
)
def budget(
    execution: Execution,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_steps: MaxSteps = None,
    max_duration: MaxDuration = None,
    reason: Reason = None,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Change what an execution may use; limits not given stay. One that paused for it then waits to be resumed."""
    from app.cli import adjusting as work

    limits = Limits(max_cost, max_tokens, max_steps, max_duration)
    if not limits.given():
        raise typer.BadParameter("give --max-cost, --max-tokens, --max-steps or --max-duration")
    raise typer.Exit(work.budget(execution, limits, reason, Access(server, token, data_dir), as_json=as_json))


@debugging.command(epilog=example("stepstream executions breakpoints last qualify send"))
def breakpoints(
    execution: Execution,
    steps: Annotated[list[str] | None, typer.Argument(metavar="[STEP]...", help="Pause before these alone.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Pause before no step.")] = False,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Set the steps before which an execution pauses, in place of those set before."""
    from app.cli import adjusting as work

    if bool(steps) == clear:
        raise typer.BadParameter("name steps, or --clear")
    raise typer.Exit(work.breakpoints(execution, steps or [], Access(server, token, data_dir), as_json=as_json))


@debugging.command(epilog=example("stepstream executions edit last score '{\"score\": 0.9}' --reason 'wrong model'"))
def edit(
    execution: Execution,
    step: Step,
    output: Annotated[str, typer.Argument(metavar="JSON|@FILE|TEXT", help="The output it is to have.")],
    reason: Reason = None,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Give a step another output: one that has not started does not run; a completed one while the run is PAUSED."""
    from app.cli import adjusting as work

    access = Access(server, token, data_dir)
    raise typer.Exit(work.edit(execution, step, output, reason, access, as_json=as_json))


@debugging.command(
    "run-step",
    epilog=example("stepstream executions run-step wf_sales score --output qualify='{\"leads\": []}' --follow"),
)
def run_step(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW_ID", help="A workflow.")],
    step: Step,
    value: Annotated[
        str | None, typer.Option("--input", "-i", metavar="JSON|@FILE|TEXT", help="The input of the run.")
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", metavar="STEP=JSON", help="The output of a step before it; repeatable."),
    ] = None,
    follow: Follow = False,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Run one step of a workflow alone, as an execution of its own; prints its id."""
    from app.cli import adjusting as work

    wanted = work.OneStep(workflow, step, value, outputs or [])
    access = Access(server, token, data_dir)
    raise typer.Exit(work.run_step(wanted, access, follow=follow, as_json=as_json))
