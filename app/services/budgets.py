"""What all runs of a workflow, or of the organisation, may use on one day.

A change is known to this process on return, to others within their scan interval, and at once to a run that is resumed.
"""

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth.principal import Caller
from app.db.queries import budgets as queries
from app.db.queries import workflows
from app.db.queries.executions import Row
from app.db.tenancy import Tenancy
from app.domain.definition import Budget
from app.domain.errors import NotFound, Problem, Problems
from app.domain.jsontext import JSON
from app.services.audit import Audit

WHOLE_ORGANIZATION = ""


class DayBudgets:
    """The use cases about budgets of the day; a workflow id of None means the organisation."""

    def __init__(self, tenancy: Tenancy, audit: Audit, spread: Callable[[], Awaitable[None]]) -> None:
        self._tenancy = tenancy
        self._audit = audit
        self._spread = spread

    async def list(self, caller: Caller) -> Sequence[Row]:
        """All budgets with what today used of them."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return await queries.page(connection, caller.org_id)

    async def put(self, caller: Caller, workflow_id: str | None, limits: Budget) -> Row:
        """Set a budget in place of the one before. Raises NotFound, and Problems for a budget without a limit."""
        values = {name: getattr(limits, name) for name in Budget.model_fields}
        if not any(value is not None for value in values.values()):
            detail = "Give at least one limit: max_cost, max_tokens, max_steps or max_duration"
            raise Problems(detail, [Problem("missing_field", detail)])
        async with self._tenancy.transaction(caller.org_id) as connection:
            if workflow_id is not None and await workflows.get(connection, caller.org_id, workflow_id) is None:
                raise NotFound("There is no such workflow")
            scope = workflow_id or WHOLE_ORGANIZATION
            await queries.put(connection, caller.org_id, scope, values, caller.user_id)
            await self._note(connection, caller, "budget.set", workflow_id, limits.model_dump(exclude_none=True))
            found = await queries.get(connection, caller.org_id, scope)
        await self._spread()
        if found is None:
            raise AssertionError("a budget that was just set is there")
        return found

    async def delete(self, caller: Caller, workflow_id: str | None) -> None:
        """Set no limit any more; raises NotFound if none was set."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            if not await queries.remove(connection, caller.org_id, workflow_id or WHOLE_ORGANIZATION):
                raise NotFound("There is no such budget")
            await self._note(connection, caller, "budget.removed", workflow_id, {})
        await self._spread()

    async def _note(
        self,
        connection: AsyncConnection,
        caller: Caller,
        action: str,
        workflow_id: str | None,
        details: dict[str, JSON],
    ) -> None:
        kind = "organization" if workflow_id is None else "workflow"
        await self._audit.note(connection, caller, action, kind, workflow_id or caller.org_id, details)
