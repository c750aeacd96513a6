"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Where the embedded Postgres and the keys are [~/.stepstream]."),
]
Server = Annotated[
    str | None,
    typer.Option(metavar="URL", envvar="STEPSTREAM_SERVER", help="The server to talk to \\[http://127.0.0.1:8000]."),
]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="STEPSTREAM_TOKEN", help="A bearer token; for a server on this machine one is made if missing."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's answer, for programs.")]
Execution = Annotated[str, typer.Argument(metavar="ID|last", help="An execution, or `last` for the newest.")]
Reason = Annotated[str | None, typer.Option("--reason", "-m", help="Why: kept in its events and in the audit log.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Watch the new one live and print its output.")]
Statuses = Annotated[
    list[str] | None, typer.Option("--status", "-s", help="Only those in this status, any case; repeatable.")
]
Workflow = Annotated[str | None, typer.Option("--workflow", "-w", metavar="ID", help="Only those of this workflow.")]
Labels = Annotated[
    list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="Only those with it; repeatable.")
]
Since = Annotated[
    str | None, typer.Option(metavar="AGE|TIME", help="Only those created since: 2h, 7d, 2030-01-01T06:00:00Z.")
]
Until = Annotated[str | None, typer.Option(metavar="AGE|TIME", help="Only those created before.")]

Breakpoints = Annotated[
    list[str] | None, typer.Option("--breakpoint", "-b", metavar="STEP", help="Pause before it; repeatable.")
]
Pins = Annotated[
    list[str] | None, typer.Option("--pin", metavar="STEP=JSON", help="A step's output: it does not run; repeatable.")
]
MaxCost = Annotated[float | None, typer.Option("--max-cost", metavar="USD", help="What it may cost before it pauses.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Tokens it may use before it pauses.")]
MaxSteps = Annotated[int | None, typer.Option("--max-steps", help="Attempts of steps before it pauses.")]
MaxDuration = Annotated[
    str | None, typer.Option("--max-duration", metavar="SPAN", help="How long it may run before it pauses: 30m, 2h.")
]


class Limits(NamedTuple):
    """A budget, as the options say it."""

    max_cost: float | None
    max_tokens: int | None
    max_steps: int | None
    max_duration: str | None

    def given(self) -> dict[str, float | int | str]:
        """Those that are there, as the API names them."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Access(NamedTuple):
    """Which server a command talks to and as whom, as its options say; None: what is usual."""

    server: str | None
    token: str | None
    data_dir: Path | None

    @property
    def options(self) -> str:
        """The same for another command, without the token."""
        server = f" --server {self.server}" if self.server else ""
        return server + (f" --data-dir {self.data_dir}" if self.data_dir else "")


class Selection(NamedTuple):
    """Which executions, as the options say it."""

    statuses: list[str] | None
    workflow: str | None
    labels: list[str] | None
    since: str | None
    until: str | None


EXIT_STATUSES = "\n\n".join(
    (
        "[bold]Exit status[/bold]",
        "0  done",
        "1  the run that was watched did not complete, or not everything asked for could be done",
        "2  refused, wrong usage, or no server",
        "130  interrupted",
    )
)


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(("[bold]Example[/bold]", *lines))
