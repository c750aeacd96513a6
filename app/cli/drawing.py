"""Drawing a run from its events: a line for all that happened, and below them, on a terminal, what happens now."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from app import clock
from app.cli.client import Event

NOTHING = "\N{EN DASH}"
MARKS = {
    "step_completed": ("✓", "green"),
    "step_failed": ("✗", "red"),
    "step_cancelled": ("✗", "yellow"),
    "step_retrying": ("↻", "yellow"),
    "step_skipped": (NOTHING, "dim"),
    "step_waiting": ("◷", "cyan"),
    "step_reused": ("=", "green"),
    "step_pinned": ("=", "cyan"),
    "step_edited": ("✎", "cyan"),
    "execution_paused": ("‖", "yellow"),
    "execution_resumed": ("▶", "cyan"),
    "signal_received": ("✉", "cyan"),
    "approval_requested": ("?", "yellow"),
    "approval_decided": ("✉", "cyan"),
    "budget_exceeded": ("‖", "red"),
}
SKIPPED = {
    "not_taken": "not on the way taken",
    "condition_false": "its condition is false",
    "execution_failed": "another step has failed",
    "nothing_failed": "nothing has failed",
    "not_all_succeeded": "not all it needs has succeeded",
    "not_selected": "another step was asked for alone",
}
WAITS = {
    "signal": "a signal",
    "approval": "an approval",
    "child": "another execution",
}

_BAR_WIDTH = 40
_TAIL = 100
_LONGEST_NAME = 40
_FUNCTION_WIDTH = 12
_FRAMES_PER_SECOND = 12


@dataclass(slots=True)
class RunningStep:
    """A step that runs now; `tail` is the end of what it has said."""

    name: str
    spinner: Spinner = field(default_factory=lambda: Spinner("dots", style="cyan"))
    tail: str = ""


class RunView:
    """Shows events as they come. Inside `with` on a terminal it keeps a progress bar below the lines."""

    def __init__(self, console: Console, step_names: Mapping[str, str]) -> None:
        self._console = console
        self._names = {step_id: printable(name) for step_id, name in step_names.items()}
        self._width = min(max(map(len, self._names.values()), default=0), _LONGEST_NAME)
        self._running: dict[str, RunningStep] = {}
        self._functions: dict[str, str] = {}
        self._settled = 0
        self._progress = 0
        self._colour = "cyan"
        self._cut = False
        self._began = clock.monotonic()
        live = Live(
            get_renderable=self._now, console=console, refresh_per_second=_FRAMES_PER_SECOND, redirect_stderr=False
        )
        self._live = live if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.clear()
        if self._live:
            self._live.stop()

    def show(self, event: Event) -> None:
        """Draw one event."""
        data: Mapping[str, Any] = event["data"]
        step_id = event["step_id"] or ""
        self._progress = event["progress"]
        self._cut = False
        match event["type"]:
            case "step_started":
                self._functions[step_id] = printable(data["function"])
                self._running[step_id] = RunningStep(self._name(step_id, data))
            case "token_delta" if step_id in self._running:
                step = self._running[step_id]
                step.tail = (step.tail + printable(data["text"]))[-_TAIL:]
            case "step_progress" if step_id in self._running:
                self._running[step_id].tail = f"{data['fraction']:.0%} {printable(data['message'])}"
            case "step_log":
                self._say(("·", "dim"), self._name(step_id, {}), Text(printable(data["message"])))
            case "step_completed" | "step_failed" | "step_cancelled" | "step_skipped" | "step_reused" | "step_pinned":
                self._running.pop(step_id, None)
                # An item of a `for_each` step is a part of its step.
                self._settled += "[" not in step_id
                self._step(event["type"], step_id, data)
            case "step_waiting":
                self._running.pop(step_id, None)
                self._step(event["type"], step_id, data)
            case "step_retrying" | "step_edited":
                self._step(event["type"], step_id, data)
            case "signal_received" | "approval_requested" | "approval_decided" | "budget_exceeded":
                self._say(MARKS[event["type"]], self._name(step_id, {}), Text(_told(event["type"], data), "cyan"))
            case "execution_paused" | "execution_resumed":
                word = event["type"].removeprefix("execution_")
                detail = printable(data.get("detail") or data["reason"])
                self._say(MARKS[event["type"]], "", Text(f"{word}: {detail}"))
            case "execution_cancelling":
                self._say(("✗", "yellow"), "", Text("cancel requested"))
            case "execution_completed":
                self._colour = "green"
            case "execution_failed" | "execution_cancelled":
                self._colour = "red"
            case _:
                return

    def cut(self, reason: str) -> None:
        """Say, once, that the stream was cut and is being taken up again; the run itself goes on."""
        if not self._cut:
            self._cut = True
            self._say(("⋯", "yellow"), "", Text(f"stream cut ({printable(reason)}), connecting again", "yellow"))

    def _step(self, kind: str, step_id: str, data: Mapping[str, Any]) -> None:
        match kind:
            case "step_completed":
                detail = self._spent(step_id, data)
            case "step_failed" | "step_cancelled":
                cause = printable(data["error_message"] or data["status"])
                detail = self._spent(step_id, data).append(f"  {cause}", "red")
            case "step_retrying":
                cause = printable(data["error_message"])
                detail = Text(f"attempt {data['attempt']} in {data['delay_ms']} ms: {cause}", "yellow")
            case "step_skipped":
                detail = Text(f"skipped: {SKIPPED.get(data['reason'], data['reason'])}", "dim")
            case "step_reused":
                detail = Text(f"reused from {data['reused_from']}", "dim")
            case "step_pinned":
                detail = Text("not run: its output was given", "dim")
            case "step_edited":
                detail = Text(f"has another output by {printable(data['edited_by'] or 'somebody')}", "cyan")
            case _ if data["reason"] in WAITS:
                until = "" if data["wake_at"] is None else f", until {moment(data['wake_at'])} at the latest"
                detail = Text(f"waits for {WAITS[data['reason']]}{until}", "cyan")
            case _:
                detail = Text(f"waits until {moment(data['wake_at'])} ({data['reason']})", "cyan")
        self._say(MARKS[kind], self._name(step_id, data), detail)

    def _spent(self, step_id: str, data: Mapping[str, Any]) -> Text:
        function = self._functions.get(step_id, "").ljust(_FUNCTION_WIDTH)
        return Text.assemble((function, "dim"), f"{data['execution_time_ms']:>9,.0f} ms")

    def _say(self, mark: tuple[str, str], name: str, detail: Text) -> None:
        line = Text.assemble("  ", mark, "  ", name.ljust(self._width), "  ", detail)
        if self._live is None:
            line = Text.assemble(f"{self._progress:3d}%", line)
        self._console.print(line, soft_wrap=True)

    def _name(self, step_id: str, data: Mapping[str, Any]) -> str:
        return self._names.get(step_id) or printable(data.get("step_name") or step_id)

    def _now(self) -> ConsoleRenderable:
        running = Table.grid(padding=(0, 2), expand=True)
        running.add_column(width=3, justify="right")
        running.add_column(no_wrap=True)
        running.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for step in list(self._running.values()):
            running.add_row(step.spinner, step.name.ljust(self._width), Text(step.tail, "dim italic"))
        bar = Table.grid(padding=(0, 2))
        total = len(self._names)
        bar.add_row(
            " ",
            ProgressBar(total=100, completed=self._progress, width=_BAR_WIDTH, complete_style=self._colour),
            Text(f"{self._progress} %", "bold"),
            Text(f"{self._settled} of {total} steps" if total else "", "dim"),
            Text(f"{clock.monotonic() - self._began:.1f} s", "dim"),
        )
        return Group(running, Text(), bar)


def _told(kind: str, data: Mapping[str, Any]) -> str:
    match kind:
        case "signal_received":
            return f"signal {printable(data['name'])}"
        case "approval_requested":
            deadline = "" if data["deadline"] is None else f", until {moment(data['deadline'])}"
            return f"to approve: {printable(data['title'])} ({data['approval_id']}){deadline}"
        case "approval_decided":
            comment = f": {printable(data['comment'])}" if data["comment"] else ""
            return f"{data['decision']} by {printable(data['decided_by'] or 'nobody')}{comment}"
        case _:
            return f"the budget {data['budget']} of {data['limit']:g} is used up: {data['used']:g}"


def moment(text: str | None) -> str:
    """A time of the API as people read it."""
    return NOTHING if text is None else f"{text[:10]} {text[11:23]} UTC"


def printable(text: object) -> str:
    """Text that may come from anywhere, without what would move the terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in str(text))
