"""`executions budget`, `breakpoints`, `edit` and `run-step`."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import quote

from rich.text import Text

from app.cli.client import Client
from app.cli.connection import carry_out
from app.cli.naming import path_of
from app.cli.options import Access, Limits
from app.cli.repeating import Output, follow_new
from app.cli.run import parse_input, pins_of
from app.cli.tables import show_json, status_text, wide_console
from app.domain.jsontext import JSON


class OneStep(NamedTuple):
    """A step to run alone, as the options say it."""

    workflow: str
    step: str
    input: str | None
    outputs: list[str]

    def body(self) -> dict[str, JSON]:
        return {"input": parse_input(self.input), "outputs": pins_of(self.outputs, "--output")}


def budget(execution: str, limits: Limits, reason: str | None, access: Access, *, as_json: bool) -> int:
    """Change the limits of an execution; the exit status."""
    body: dict[str, JSON] = {**limits.given(), "reason": reason}

    async def change(client: Client) -> dict[str, Any]:
        return await client.patch(await path_of(client, execution, "budget"), body)

    return _changed(change, "its budget is to change", access, as_json=as_json)


def breakpoints(execution: str, steps: list[str], access: Access, *, as_json: bool) -> int:
    """Replace the breakpoints of an execution; the exit status."""

    async def change(client: Client) -> dict[str, Any]:
        return await client.put(await path_of(client, execution, "breakpoints"), {"steps": [*steps]})

    told = f"pauses before {', '.join(steps)}" if steps else "pauses before no step"
    return _changed(change, told, access, as_json=as_json)


def edit(execution: str, step: str, output: str, reason: str | None, access: Access, *, as_json: bool) -> int:
    """Give a step of an execution another output; the exit status."""

    async def change(client: Client) -> dict[str, Any]:
        body: dict[str, JSON] = {"output": parse_input(output, "OUTPUT"), "reason": reason}
        return await client.put(await path_of(client, execution, "steps", quote(step, safe=""), "output"), body)

    return _changed(change, f"{step} is to have this output", access, as_json=as_json)


def run_step(wanted: OneStep, access: Access, *, follow: bool, as_json: bool) -> int:
    """Run one step of a workflow alone; the exit status."""

    async def make(client: Client) -> dict[str, Any]:
        workflow, step = quote(wanted.workflow, safe=""), quote(wanted.step, safe="")
        return await client.post(f"/workflows/{workflow}/steps/{step}/run", wanted.body(), repeatable=True)

    return follow_new(make, lambda _: f"{wanted.step} alone", access, Output(follow, as_json))


def _changed(change: Callable[[Client], Awaitable[dict[str, Any]]], told: str, access: Access, *, as_json: bool) -> int:
    async def work(client: Client) -> int:
        record = await change(client)
        if as_json:
            show_json(record)
        else:
            line = Text.assemble(record["id"], f"  {told}, was ", status_text(record["status"]))
            wide_console().print(line, soft_wrap=True)
        return 0

    return carry_out(work, access)
