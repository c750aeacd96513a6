"""Who did what: one row for every mutating call, sign-in, denial, and (by the recorder) each execution's end."""

from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from app import clock
from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.db.audit_chain import Verification
from app.db.queries import audit as queries
from app.db.tenancy import Tenancy
from app.domain.audit_chain import Head
from app.domain.errors import Unavailable, clean_text
from app.domain.jsontext import JSON, encode

log = structlog.get_logger("audit")


class Audit:
    """Writes audit rows: with a mutation in its own transaction (`note`), or alone (`denied`)."""

    def __init__(self, tenancy: Tenancy) -> None:
        self._tenancy = tenancy

    async def note(
        self,
        connection: AsyncConnection,
        caller: Caller,
        action: str,
        resource_type: str,
        resource_id: str,
        details: dict[str, JSON] | None = None,
    ) -> None:
        """Add a row to the transaction of the change it tells of."""
        await queries.add(connection, audit_row(caller, action, resource_type, resource_id, details))

    async def note_once(
        self,
        connection: AsyncConnection,
        caller: Caller,
        made: str,
        action: str,
        resource_type: str,
        resource_id: str,
        details: dict[str, JSON],
    ) -> None:
        """As `note`, but only the first time for the thing with the id `made`, of which nothing else is told so."""
        row = audit_row(caller, action, resource_type, resource_id, details)
        await queries.add_once(connection, row | {"id": f"audit_{made.partition('_')[2]}"})

    async def note_each(
        self,
        connection: AsyncConnection,
        caller: Caller,
        action: str,
        resource_type: str,
        resource_ids: Sequence[str],
        details: dict[str, JSON],
    ) -> None:
        """Add a row for each of these resources, of which there is at least one."""
        await queries.add(
            connection,
            *(audit_row(caller, action, resource_type, resource_id, details) for resource_id in resource_ids),
        )

    async def denied(self, caller: Caller, permission: Permission) -> None:
        """Note that a caller lacked a permission. A database that does not answer never turns a refusal into a 503."""
        row = audit_row(caller, "access.denied", "permission", permission.value)
        row |= {"success": False, "error_code": "insufficient_scope", "error_message": f"Lacks '{permission}'"}
        try:
            async with self._tenancy.transaction(caller.org_id) as connection:
                await queries.add(connection, row)
        except Unavailable as error:
            log.warning("denial_not_audited", reason=error.detail, permission=permission.value)

    async def page(
        self, caller: Caller, *, before: int | None, limit: int, filters: dict[str, Any]
    ) -> Sequence[RowMapping]:
        """A page of the organisation's log, the newest first."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return await queries.page(connection, caller.org_id, before=before, limit=limit, **filters)

    async def verify(self, caller: Caller, after: Head) -> Verification:
        """Hold the next stretch of the organisation's chain behind a head against its rows."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return await queries.verify(connection, caller.org_id, after)


def audit_row(
    caller: Caller, action: str, resource_type: str, resource_id: str, details: dict[str, JSON] | None = None
) -> dict[str, Any]:
    """A successful action as a row; override `success` and the error for a failed one."""
    return {
        "id": clock.new_id("audit"),
        "org_id": caller.org_id,
        "user_id": caller.user_id,
        "action": action,
        "resource_type": resource_type,
        "resource_id": clean_text(resource_id, 200),
        "details": encode(dict(details or {})),
        "ip_address": caller.ip_address,
        "user_agent": caller.user_agent,
        "request_id": caller.request_id,
        "success": True,
    }
