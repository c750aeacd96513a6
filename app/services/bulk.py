"""One wish for many executions at once, with a preview that can be held against what is then done."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection

from app import clock
from app.auth.principal import Caller
from app.db.queries import audit as audit_queries
from app.db.queries import control as inbox
from app.db.queries.executions import ExecutionFilter
from app.db.tenancy import Tenancy
from app.domain.errors import Conflict, Problem, Problems, StepstreamError
from app.domain.jsontext import JSON, decode, encode
from app.domain.mail import MailKind, clean_reason
from app.services.audit import Audit
from app.services.lineage import Lineages, RetryRequest

MAX_MATCHES = 10_000
SHOWN = 100
RETRIES_AT_ONCE = 8
KEY_LIFETIME = timedelta(hours=24)
RESOURCE = "executions"

BulkAction: TypeAlias = Literal["cancel", "terminate", "pause", "resume", "retry"]


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """The wish. `expected_count` refuses it when another number of executions matches by now.

    `idempotency_key` makes repeating it safe for 24 hours; it does not count for a dry run.
    """

    action: BulkAction
    wanted: ExecutionFilter
    reason: str | None = None
    dry_run: bool = False
    expected_count: int | None = None
    idempotency_key: str | None = None

    @property
    def fingerprint(self) -> str:
        """Tells whether a repeated request is the same one."""
        parts: list[JSON] = [self.action, _narrowed(self.wanted), self.reason, self.expected_count]
        return hashlib.sha256(encode(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class NotRetried:
    """An execution of a bulk retry for which no new one was made, and why."""

    execution_id: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class BulkResult:
    """How many matched, to how many it was done, the first of them, and the first that a retry made.

    `replayed`: it was done when an earlier request with the same key asked for it.
    """

    request: BulkRequest
    matched: int
    applied: int
    execution_ids: Sequence[str]
    new_execution_ids: Sequence[str] = ()
    failures: Sequence[NotRetried] = ()
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    """How many matched, and those it is asked of: all of them."""

    matched: int
    ids: Sequence[str]
    replayed: bool = False


class Bulk:
    """The use case of wishes by filter."""

    def __init__(self, tenancy: Tenancy, lineages: Lineages, audit: Audit) -> None:
        self._tenancy = tenancy
        self._lineages = lineages
        self._audit = audit

    async def apply(self, caller: Caller, request: BulkRequest) -> BulkResult:
        """Ask it of all executions that match and can be asked: those under way, or for `retry` those that ended badly
        and were not retried yet.

        Raises Problems (`too_many_matches`) above 10,000, and for a key that stands for another wish
        (`idempotency_key_reused`), Conflict (`count_changed`) by `expected_count`.
        """
        async with self._tenancy.transaction(caller.org_id) as connection:
            if request.dry_run:
                found = await _matching(connection, caller, request)
                return BulkResult(request, len(found), 0, found[:SHOWN])
            asked = await self._kept(connection, caller, request) or await self._ask(connection, caller, request)
        if request.action != "retry":
            ids = asked.ids
            return BulkResult(request, asked.matched, len(ids), ids[:SHOWN], replayed=asked.replayed)
        return replace(await self._retry_all(caller, request, asked.ids), replayed=asked.replayed)

    async def _ask(self, connection: AsyncConnection, caller: Caller, request: BulkRequest) -> _Asked:
        found = await _matching(connection, caller, request)
        ids = found if request.action == "retry" else await self._send(connection, caller, request, found)
        if ids or request.idempotency_key is not None:
            told = _details(request, len(ids))
            if request.idempotency_key is not None:
                told |= {"matched": len(found), "execution_ids": [*ids], "request": request.fingerprint}
            action, name = f"executions.bulk_{request.action}", _name(request.idempotency_key)
            await self._audit.note(connection, caller, action, RESOURCE, name, told)
        return _Asked(len(found), ids)

    async def _kept(self, connection: AsyncConnection, caller: Caller, request: BulkRequest) -> _Asked | None:
        """What an earlier request with the same key came to: the audit log tells, which is written with what is asked.

        A retry of many may have been cut short: its caller goes on with all of them, each of which is retried once.
        """
        if request.idempotency_key is None:
            return None
        name = _name(request.idempotency_key)
        await inbox.lock(connection, f"{caller.org_id}:{name}")
        since = clock.least_id("audit", clock.now() - KEY_LIFETIME)
        row = await audit_queries.newest(connection, caller.org_id, RESOURCE, name, after=since)
        if row is None:
            return None
        told: Any = decode(row["details"])
        if told["request"] != request.fingerprint:
            detail = "This Idempotency-Key was used for another wish, filter or count"
            raise Problems(detail, [Problem("idempotency_key_reused", detail)], code="idempotency_key_reused")
        return _Asked(told["matched"], told["execution_ids"], replayed=True)

    async def _send(
        self, connection: AsyncConnection, caller: Caller, request: BulkRequest, ids: Sequence[str]
    ) -> Sequence[str]:
        told: dict[str, JSON] = {"reason": clean_reason(request.reason)}
        sent = await inbox.send_to_all(
            connection,
            caller.org_id,
            ids,
            [clock.new_id("mail") for _ in ids],
            kind=MailKind(request.action),
            payload=encode(told),
            user_id=caller.user_id,
        )
        if sent:
            action = f"execution.{request.action}_requested"
            await self._audit.note_each(connection, caller, action, "execution", sent, told)
        return sent

    async def _retry_all(self, caller: Caller, request: BulkRequest, ids: Sequence[str]) -> BulkResult:
        turns = asyncio.Semaphore(RETRIES_AT_ONCE)

        async def one(execution_id: str) -> str | NotRetried:
            # The key makes one new execution of two people's pressing at the same moment.
            wanted = RetryRequest(reason=request.reason, idempotency_key=f"bulk-retry:{execution_id}")
            async with turns:
                try:
                    return str((await self._lineages.retry(caller, execution_id, wanted)).row["id"])
                except StepstreamError as error:
                    return NotRetried(execution_id, error.error_code, error.detail)

        results = await asyncio.gather(*map(one, ids))
        made = [result for result in results if isinstance(result, str)]
        failures = [result for result in results if isinstance(result, NotRetried)]
        return BulkResult(request, len(ids), len(made), ids[:SHOWN], made[:SHOWN], failures[:SHOWN])


async def _matching(connection: AsyncConnection, caller: Caller, request: BulkRequest) -> Sequence[str]:
    find = inbox.repairable if request.action == "retry" else inbox.running
    found = await find(connection, caller.org_id, request.wanted, MAX_MATCHES + 1)
    _demand_count(len(found), request.expected_count)
    return found


def _name(key: str | None) -> str:
    """What the audit log calls a request with a key."""
    return "" if key is None else f"key_{hashlib.sha256(key.encode()).hexdigest()[:40]}"


def _demand_count(found: int, expected: int | None) -> None:
    if found > MAX_MATCHES:
        detail = f"More than {MAX_MATCHES} executions match: narrow the filter"
        raise Problems(detail, [Problem("too_many_matches", detail, "/filter")], code="too_many_matches")
    if expected is not None and found != expected:
        detail = f"{found} executions match by now, not {expected}: look again before going on"
        raise Conflict(detail, code="count_changed")


def _details(request: BulkRequest, count: int) -> dict[str, JSON]:
    return {"filter": _narrowed(request.wanted), "count": count, "reason": clean_reason(request.reason)}


def _narrowed(wanted: ExecutionFilter) -> dict[str, JSON]:
    narrowed: dict[str, JSON] = {
        "status": [*sorted(wanted.statuses)],
        "workflow_id": wanted.workflow_id,
        "created_after": None if wanted.created_after is None else wanted.created_after.isoformat(),
        "created_before": None if wanted.created_before is None else wanted.created_before.isoformat(),
        "labels": {**wanted.labels},
        "fingerprint": wanted.fingerprint,
        "ids": None if wanted.ids is None else [*sorted(wanted.ids)],
        "retry_of": wanted.retry_of,
        "parent_id": wanted.parent_id,
        "root_id": wanted.root_id,
    }
    return {name: value for name, value in narrowed.items() if value}
