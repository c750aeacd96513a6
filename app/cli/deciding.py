"""`approvals list` and `show`, `executions approve` and `reject`."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from rich.console import Console
from rich.text import Text

from app.cli.client import Client, Value
from app.cli.connection import carry_out
from app.cli.drawing import NOTHING, moment, printable
from app.cli.failures import CommandFailed
from app.cli.insight_views import shortened
from app.cli.naming import LAST, execution_id
from app.cli.options import Access
from app.cli.run import parse_input
from app.cli.tables import is_wide, show_json, status_text, table_of, wide_console
from app.domain.jsontext import JSON

_EXECUTION = "exec_"


class Wanted(NamedTuple):
    """Which approvals."""

    statuses: list[str] | None
    execution: str | None
    mine: bool
    limit: int


class Decision(NamedTuple):
    """A decision as the options say it."""

    word: str
    comment: str | None
    data: str | None


def list_approvals(wanted: Wanted, access: Access, *, as_json: bool) -> int:
    """Print approvals, the newest first; the exit status."""

    async def work(client: Client) -> int:
        query: dict[str, Value] = {"mine": "true"} if wanted.mine else {}
        if wanted.statuses:
            query["status"] = wanted.statuses
        if wanted.execution is not None:
            query["execution_id"] = await execution_id(client, wanted.execution)
        page = await client.pages("/approvals", wanted.limit, **query)
        if as_json:
            show_json({"data": page["data"], "has_more": page["has_more"]})
        else:
            _show_list(wide_console(), page)
        return 0

    return carry_out(work, access)


def show(approval: str, access: Access, *, as_json: bool) -> int:
    """Print one approval; the exit status."""

    async def work(client: Client) -> int:
        found = await client.get(_path(approval))
        if as_json:
            show_json(found)
        else:
            _show_approval(wide_console(), found)
        return 0

    return carry_out(work, access)


def decide(named: str, decision: Decision, access: Access, *, as_json: bool) -> int:
    """Decide on an approval, or on the one that an execution waits for; the exit status."""

    async def work(client: Client) -> int:
        body: dict[str, JSON] = {"decision": decision.word, "comment": decision.comment}
        if decision.data is not None:
            body["data"] = parse_input(decision.data, "--data")
        approval = await _approval_id(client, named)
        # The same decision by the same person again is answered like the first time.
        found = await client.post(f"{_path(approval)}/decide", body, repeatable=True)
        if as_json:
            show_json(found)
        else:
            _show_decided(wide_console(), found)
        return 0

    return carry_out(work, access)


async def _approval_id(client: Client, named: str) -> str:
    if named != LAST and not named.startswith(_EXECUTION):
        return named
    execution = await execution_id(client, named)
    found = (await client.get("/approvals", execution_id=execution))["data"]
    if len(found) == 1:
        return str(found[0]["id"])
    if not found:
        # Tells an execution that does not exist from one that waits for nobody.
        status = (await client.get(f"/executions/{quote(execution, safe='')}"))["status"]
        raise CommandFailed(f"{execution} is {status} and waits for no approval")
    listed = "\n".join(f"  {each['id']}  {printable(each['title'])}" for each in found)
    raise CommandFailed(f"{execution} waits for {len(found)} approvals, name one:\n{listed}")


def _path(approval: str) -> str:
    return f"/approvals/{quote(approval, safe='')}"


def _show_list(console: Console, page: Mapping[str, Any]) -> None:
    if not page["data"]:
        console.print("No approval matches.")
        return
    wide = is_wide(console)
    table = table_of("id", "status", "~title", ">approved", *(("execution", "step", "deadline") if wide else ()))
    for row in page["data"]:
        approved = sum(made["decision"] == "approve" for made in row["decisions"])
        more = (row["execution_id"], row["step_id"] or "the run", moment(row["deadline_at"])[:19])
        table.add_row(
            row["id"],
            status_text(row["status"]),
            printable(row["title"]),
            f"{approved} of {row['quorum']}",
            *(more if wide else ()),
        )
    console.print(table)
    if page["has_more"]:
        console.print("There are more: --limit shows them.", style="dim")


def _show_approval(console: Console, found: Mapping[str, Any]) -> None:
    title = (printable(found["title"]), "bold")
    console.print(Text.assemble(status_text(found["status"]), "  ", title), soft_wrap=True)
    for line in (found["message"] or "").splitlines():
        console.print(printable(line), soft_wrap=True)
    deciders = found["deciders"]
    who = [*deciders["users"], *(f"every {role}" for role in deciders["roles"])] or ["everybody with the permission"]
    lines = {
        "id": found["id"],
        "execution": f"{found['execution_id']}, {found['step_id'] or 'the whole run'}",
        "deciders": ", ".join(who) + ("" if deciders["self_approval"] else f", not {deciders['requested_by']}"),
        "quorum": str(found["quorum"]),
        "deadline": moment(found["deadline_at"]),
        "form": NOTHING if found["form"] is None else shortened(found["form"]),
    }
    for name, value in lines.items():
        console.print(f"{name:<10} {printable(value)}", soft_wrap=True)
    for made in found["decisions"]:
        comment = f": {printable(made['comment'])}" if made["comment"] else ""
        told = f"{made['decision']} by {made['user_id']} at {moment(made['decided_at'])}{comment}"
        console.print(told, soft_wrap=True)


def _show_decided(console: Console, found: Mapping[str, Any]) -> None:
    approved = sum(made["decision"] == "approve" for made in found["decisions"])
    verdict = found["verdict"] or f"{approved} of {found['quorum']} approvals so far"
    told = f"{found['id']}  {printable(found['title'])}: {verdict}"
    console.print(told, soft_wrap=True)
