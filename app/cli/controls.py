"""`stepstream executions`: the commands that ask something of runs, and their options."""

from enum import StrEnum
from typing import Annotated

import typer

from app.cli.options import (
    Access,
    AsJson,
    Breakpoints,
    DataDir,
    Execution,
    Follow,
    Labels,
    Pins,
    Reason,
    Selection,
    Server,
    Since,
    Statuses,
    Token,
    Until,
    Workflow,
    example,
)

controls = typer.Typer(rich_markup_mode="rich")

Approval = Annotated[
    str,
    typer.Argument(metavar="APPROVAL|ID|last", help="An approval, or the execution if it waits for exactly one."),
]
Comment = Annotated[str | None, typer.Option("--comment", "-m", help="Kept with the decision.")]
Data = Annotated[str | None, typer.Option("--data", metavar="JSON|@FILE", help="What the form asks for.")]
Latest = Annotated[bool, typer.Option("--latest", help="On the latest version of the workflow, not on its own.")]
RedoOnce = Annotated[bool, typer.Option("--redo-once", help="Also repeat steps that must happen once, and did.")]


class BulkAction(StrEnum):
    """What can be asked of many."""

    CANCEL = "cancel"
    TERMINATE = "terminate"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"


_WISHES = {
    "cancel": "Cancel an execution: running steps may end within a grace, and what it started is cancelled too.",
    "terminate": "End an execution at once: whether its running steps took effect stays unknown.",
    "pause": "Let no further step of an execution start; its timeouts stand still.",
    "resume": "Let a paused execution go on.",
    "step": "Let exactly one step of a paused execution start.",
}
"""What is asked for by a reason alone."""


def _add_wish(wish: str, what_it_does: str) -> None:
    @controls.command(
        wish, help=what_it_does, epilog=example(f"stepstream executions {wish} last --reason 'wrong input'")
    )
    def ask(
        execution: Execution,
        reason: Reason = None,
        as_json: AsJson = False,
        server: Server = None,
        token: Token = None,
        data_dir: DataDir = None,
    ) -> None:
        from app.cli import asking as work

        raise typer.Exit(work.ask(wish, execution, reason, Access(server, token, data_dir), as_json=as_json))


for _wish, _what_it_does in _WISHES.items():
    _add_wish(_wish, _what_it_does)


@controls.command(epilog=example("stepstream executions signal last paid --payload '{\"amount\": 120}'"))
def signal(
    execution: Execution,
    name: Annotated[str, typer.Argument(help="The name of the signal.")],
    payload: Annotated[
        str | None, typer.Option("--payload", "-p", metavar="JSON|@FILE|TEXT", help="What it carries.")
    ] = None,
    dedupe_key: Annotated[
        str | None, typer.Option("--dedupe-key", help="Of those with the same name and key, it counts once.")
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Send a signal to an execution, before or while a step waits for it; prints the signal's id."""
    from app.cli import asking as work

    letter = work.Letter(name, payload, dedupe_key)
    raise typer.Exit(work.signal(execution, letter, Access(server, token, data_dir), as_json=as_json))


def _add_decision(word: str, what_it_does: str, shown: str) -> None:
    @controls.command(word, help=what_it_does, epilog=example(shown))
    def decide(
        approval: Approval,
        comment: Comment = None,
        data: Data = None,
        as_json: AsJson = False,
        server: Server = None,
        token: Token = None,
        data_dir: DataDir = None,
    ) -> None:
        from app.cli import deciding as work

        decision = work.Decision(word, comment, data)
        raise typer.Exit(work.decide(approval, decision, Access(server, token, data_dir), as_json=as_json))


_add_decision(
    "approve", "Approve what an execution waits for.", "stepstream executions approve last --comment 'looks right'"
)
_add_decision(
    "reject", "Reject what an execution waits for.", "stepstream executions reject last --comment 'a duplicate'"
)


@controls.command(
    epilog=example("stepstream executions retry last --follow", "stepstream executions retry exec_01 --from charge[3]")
)
def retry(
    execution: Execution,
    from_step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="From this step or item on \\[what did not end well].")
    ] = None,
    latest: Latest = False,
    redo_once: RedoOnce = False,
    reason: Reason = None,
    follow: Follow = False,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Repair a failed execution by a new one that reuses its finished steps; prints the new one's id."""
    from app.cli import repeating as work

    wanted = work.Repeat(from_step=from_step, latest=latest, redo_once=redo_once, reason=reason)
    output = work.Output(follow=follow, as_json=as_json)
    raise typer.Exit(work.retry(execution, wanted, Access(server, token, data_dir), output))


@controls.command(
    epilog=example(
        'stepstream executions replay last --from qualify --input \'{"city": "Hamburg"}\'',
        "stepstream executions replay last --pin find='{\"leads\": []}' --follow",
    )
)
def replay(
    execution: Execution,
    from_step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="From this step or item on \\[the start].")
    ] = None,
    value: Annotated[
        str | None, typer.Option("--input", "-i", metavar="JSON|@FILE|TEXT", help="Another input \\[the same].")
    ] = None,
    pins: Pins = None,
    breakpoints: Breakpoints = None,
    latest: Latest = False,
    redo_once: RedoOnce = False,
    reason: Reason = None,
    follow: Follow = False,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Run an ended execution again as a new one, from any step, with another input if wanted; prints its id."""
    from app.cli import repeating as work

    wanted = work.Repeat(from_step=from_step, latest=latest, redo_once=redo_once, reason=reason)
    edits = work.Edits(value, pins or [], breakpoints or [])
    output = work.Output(follow=follow, as_json=as_json)
    raise typer.Exit(work.replay(execution, wanted, edits, Access(server, token, data_dir), output))


@controls.command(
    epilog=example(
        "stepstream executions bulk cancel --workflow wf_sales --dry-run",
        "stepstream executions bulk retry --fingerprint FINGERPRINT --yes",
    )
)
def bulk(
    action: Annotated[BulkAction, typer.Argument(help="What to ask of them.")],
    status: Statuses = None,
    workflow: Workflow = None,
    label: Labels = None,
    since: Since = None,
    until: Until = None,
    fingerprint: Annotated[str | None, typer.Option(help="Only those that failed in this way.")] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Only this one; repeatable.")] = None,
    reason: Reason = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Ask the same of every execution that matches: counts them first, and asks you.

    Nothing is done if another number of them matches by the time you have answered.
    """
    from app.cli import bulk as work

    wanted = work.Bulk(
        action.value, Selection(status, workflow, label, since, until), fingerprint, ids, reason, dry_run, yes
    )
    raise typer.Exit(work.bulk(wanted, Access(server, token, data_dir), as_json=as_json))
