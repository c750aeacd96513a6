"""Approvals: what waits for a person, and the decisions.

A decision is mail to the execution that asked, durable on return; the approval's own row follows when the execution's
owner has taken it in. So whether it is decided is read from the decisions, and one is made at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from sqlalchemy.ext.asyncio import AsyncConnection

from app import clock
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.db.queries import approvals as queries
from app.db.queries import control as inbox
from app.db.queries.approvals import DecidableBy
from app.db.queries.control import Letter
from app.db.queries.executions import Row
from app.db.tenancy import Tenancy
from app.domain.approvals import Decision, Verdict, verdict
from app.domain.errors import Conflict, Forbidden, NotFound, Problem, Problems, clean_text
from app.domain.jsontext import JSON, decode, encode
from app.domain.mail import MailKind
from app.domain.schemas import UnsupportedSchema, compile_schema, schema_problems
from app.services.audit import Audit
from app.services.payloads import may_read

MAX_COMMENT = 2_000
PENDING = "PENDING"


@dataclass(frozen=True, slots=True)
class Decided:
    """One person's decision."""

    id: str
    decision: Decision
    comment: str | None
    data: JSON
    user_id: str
    decided_at: Any


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval with the decisions so far, in the order they were made, and what they come to."""

    row: Row
    decisions: Sequence[Decided]
    verdict: Verdict | None


class Approvals:
    """The use cases about approvals."""

    def __init__(self, tenancy: Tenancy, audit: Audit) -> None:
        self._tenancy = tenancy
        self._audit = audit

    async def page(
        self,
        caller: Caller,
        statuses: frozenset[str],
        execution_id: str | None,
        *,
        mine: bool,
        before: str | None,
        limit: int,
    ) -> Sequence[Approval]:
        """Approvals, the newest first; `mine`: those that the caller may decide and has not decided yet."""
        if mine and not caller.principal.allows(Permission.APPROVALS_DECIDE):
            return []
        async with self._tenancy.transaction(caller.org_id) as connection:
            rows = await queries.page(
                connection,
                caller.org_id,
                statuses=statuses,
                execution_id=execution_id,
                decidable_by=DecidableBy(caller.user_id, caller.principal.role.value) if mine else None,
                before=before,
                limit=limit,
            )
            found = await _with_decisions(connection, caller, rows)
        return [_shown(caller, approval) for approval in found]

    async def get(self, caller: Caller, approval_id: str) -> Approval:
        """One approval; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return _shown(caller, await _found(connection, caller, approval_id))

    async def decide(
        self, caller: Caller, approval_id: str, decision: Decision, comment: str | None, data: JSON
    ) -> Approval:
        """Approve or reject, once for each person; the same decision again answers the same.

        Raises NotFound, Forbidden (`not_a_decider`, `self_approval`), Conflict (`approval_decided`,
        `already_decided_by_you`), and Problems (`form_mismatch`) when an approval's `data` does not fit the form.
        """
        said = None if comment is None else clean_text(comment, MAX_COMMENT)
        async with self._tenancy.transaction(caller.org_id) as connection:
            await queries.lock(connection, approval_id)
            approval = await _found(connection, caller, approval_id)
            _demand_decider(caller, _deciders(approval.row))
            for earlier in approval.decisions:
                if earlier.user_id == caller.user_id:
                    return _shown(caller, _repeated(approval, earlier, (decision, said, data)))
            if approval.row["status"] != PENDING or approval.verdict is not None:
                state = approval.verdict or approval.row["status"].lower()
                raise Conflict(f"The approval is {state} already", code="approval_decided")
            if decision == "approve":
                _demand_fit(approval.row["form"], data)
            await self._record(connection, caller, approval.row, decision, said, data)
            return _shown(caller, await _found(connection, caller, approval_id))

    async def _record(
        self,
        connection: AsyncConnection,
        caller: Caller,
        row: Row,
        decision: Decision,
        comment: str | None,
        data: JSON,
    ) -> None:
        letter = Letter(
            id=clock.new_id("mail"),
            execution_id=row["execution_id"],
            kind=MailKind.DECISION,
            payload=encode({"decision": decision, "comment": comment, "data": data}),
            user_id=caller.user_id,
            topic=row["id"],
            dedupe_key=f"{row['id']}:{caller.user_id}",
        )
        await inbox.send(connection, caller.org_id, letter)
        action = "approval.approved" if decision == "approve" else "approval.rejected"
        details: dict[str, JSON] = {"execution_id": row["execution_id"], "comment": comment}
        await self._audit.note(connection, caller, action, "approval", row["id"], details)


async def _found(connection: AsyncConnection, caller: Caller, approval_id: str) -> Approval:
    row = await queries.get(connection, caller.org_id, approval_id)
    if row is None:
        raise NotFound("There is no such approval")
    return (await _with_decisions(connection, caller, [row]))[0]


async def _with_decisions(connection: AsyncConnection, caller: Caller, rows: Sequence[Row]) -> list[Approval]:
    mail = await inbox.decisions(connection, caller.org_id, rows) if rows else []
    made: dict[str, list[Decided]] = {}
    for letter in mail:
        made.setdefault(letter["topic"], []).append(_decided(letter))
    return [
        Approval(row, found, verdict(row["quorum"], [each.decision for each in found]))
        for row in rows
        for found in [made.get(row["id"], [])]
    ]


def _shown(caller: Caller, approval: Approval) -> Approval:
    """What others filled in is a payload; what is to be approved is told to whoever reads of it."""
    if may_read(caller):
        return approval
    decisions = [made if made.user_id == caller.user_id else replace(made, data=None) for made in approval.decisions]
    return replace(approval, decisions=decisions)


def _decided(letter: Row) -> Decided:
    payload: Any = decode(letter["payload"])
    return Decided(
        id=letter["id"],
        decision="approve" if payload.get("decision") == "approve" else "reject",
        comment=payload.get("comment"),
        data=payload.get("data"),
        user_id=letter["user_id"],
        decided_at=letter["created_at"],
    )


def _repeated(approval: Approval, earlier: Decided, wanted: tuple[Decision, str | None, JSON]) -> Approval:
    if (earlier.decision, earlier.comment, earlier.data) == wanted:
        return approval
    word = "approved" if earlier.decision == "approve" else "rejected"
    raise Conflict(f"You have {word} this already, and a decision is final", code="already_decided_by_you")


def _deciders(row: Row) -> Mapping[str, Any]:
    value = decode(row["deciders"])
    return value if isinstance(value, dict) else {}


def _demand_decider(caller: Caller, deciders: Mapping[str, Any]) -> None:
    users, roles = deciders.get("users") or (), deciders.get("roles") or ()
    if (users or roles) and caller.user_id not in users and caller.principal.role.value not in roles:
        raise Forbidden("Only the people and roles that the workflow names may decide this", code="not_a_decider")
    if caller.user_id == deciders.get("requested_by") and not deciders.get("self_approval"):
        raise Forbidden("Who started the execution does not decide on it", code="self_approval")


def _demand_fit(form: str | None, data: JSON) -> None:
    schema = None if form is None else decode(form)
    if not _is_schema(schema):
        return
    try:
        validator = compile_schema(schema)
    except UnsupportedSchema as error:
        detail = f"The approval's form is no JSON Schema that can be used: {error}"
        raise Problems(detail, [Problem("unsupported_schema", detail, "/data")], code="form_mismatch") from error
    if found := schema_problems(validator, data, "form_mismatch"):
        problems = [Problem(problem.code, problem.detail, f"/data{problem.pointer}") for problem in found]
        raise Problems(f"The data does not fit the form: {found[0].detail}", problems, code="form_mismatch")


def _is_schema(value: JSON) -> TypeGuard[dict[str, Any] | bool]:
    return isinstance(value, dict | bool)
