"""`executions bulk`: one wish for many, counted and confirmed before."""

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console

from app.cli.client import Client
from app.cli.connection import carry_out
from app.cli.drawing import printable
from app.cli.failures import CommandFailed
from app.cli.naming import execution_id, labels_of, narrowed
from app.cli.options import Access, Selection
from app.cli.tables import show_json, wide_console
from app.domain.jsontext import JSON

_PATH = "/executions/bulk"


class Bulk(NamedTuple):
    """What is asked, of which executions."""

    action: str
    selection: Selection
    fingerprint: str | None
    ids: list[str] | None
    reason: str | None
    dry_run: bool
    yes: bool


def bulk(wanted: Bulk, access: Access, *, as_json: bool) -> int:
    """Count, ask the person, and do it; the exit status, 1 if some could not be retried."""

    async def work(client: Client) -> int:
        body: dict[str, JSON] = {
            "action": wanted.action,
            "reason": wanted.reason,
            "filter": await _filter(client, wanted),
        }
        preview = await client.post(_PATH, {**body, "dry_run": True}, repeatable=True)
        console = wide_console(stderr=True)
        count = int(preview["matched"])
        if wanted.dry_run or not count:
            _show(preview, as_json=as_json)
            return 0
        console.print(f"{_executions(count, 'match')}.")
        if not wanted.yes:
            _demand_consent(console, f"{wanted.action.capitalize()} {_executions(count)}?")
        done = await client.post(_PATH, {**body, "expected_count": count}, repeatable=True)
        _show(done, as_json=as_json)
        return 1 if done["failures"] else 0

    return carry_out(work, access)


async def _filter(client: Client, wanted: Bulk) -> dict[str, JSON]:
    selection = wanted.selection
    found: dict[str, JSON] = {**narrowed(selection)}
    if selection.statuses:
        found["status"] = [*selection.statuses]
    if labels := labels_of(selection.labels):
        found["labels"] = {**labels}
    if wanted.fingerprint is not None:
        found["fingerprint"] = wanted.fingerprint
    if wanted.ids:
        found["ids"] = [await execution_id(client, word) for word in wanted.ids]
    if not found:
        raise CommandFailed("Say which: --status, --workflow, --label, --since, --until, --fingerprint or --id")
    return found


def _demand_consent(console: Console, question: str) -> None:
    console.print(f"{question} [y/N] ", end="")
    with _interruptible():
        answer = sys.stdin.readline()
    if not answer:
        raise CommandFailed("Nothing was done: nobody answered. --yes goes on without asking")
    if answer.strip().lower() not in {"y", "yes"}:
        raise CommandFailed("Nothing was done")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end what blocks inside: the event loop's own handler would wait until it is done."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _show(answer: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
        return
    shown = answer["new_execution_ids"] or answer["execution_ids"]
    for execution in shown:
        print(execution)
    console = wide_console(stderr=True)
    if answer["dry_run"] or not answer["matched"]:
        told = f"{_executions(answer['matched'], 'match')}. Nothing was done."
    else:
        told = f"{answer['action']}: asked of {answer['applied']} of {_executions(answer['matched'])}."
    console.print(told, soft_wrap=True)
    for failure in answer["failures"]:
        console.print(f"{failure['execution_id']}: {printable(failure['detail'])}", style="red", soft_wrap=True)


def _executions(count: int, verb: str = "") -> str:
    one = count == 1
    told = f"{count:,} execution{'' if one else 's'}"
    return f"{told} {verb}{'es' if one else ''}" if verb else told
