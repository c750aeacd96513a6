"""Reading executions: one, its steps and items, lists, counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth.permissions import Permission
from app.auth.principal import Caller
from app.db.execution_reader import ExecutionReader
from app.db.queries import executions as queries
from app.db.queries.executions import ExecutionFilter, Row
from app.db.tenancy import Tenancy
from app.domain.compiled import CompiledWorkflow
from app.domain.errors import NotFound
from app.engine.definitions import Definitions
from app.services.payloads import all_shown, shown

NO_SUCH_EXECUTION = "There is no such execution"


@dataclass(frozen=True, slots=True)
class ExecutionDetail:
    """An execution with its steps and ended attempts, and the definition it runs; items of steps are left out.

    `traces`: the caller may see stack traces.
    """

    row: Row
    steps: Sequence[Row]
    attempts: Sequence[Row]
    workflow: CompiledWorkflow | None
    traces: bool


@dataclass(frozen=True, slots=True)
class StepRecords:
    """Some steps or items of an execution and their ended attempts; `traces`: the caller may see stack traces."""

    steps: Sequence[Row]
    attempts: Sequence[Row]
    traces: bool


class Executions:
    """The use cases of reading executions."""

    def __init__(self, tenancy: Tenancy, reader: ExecutionReader, definitions: Definitions) -> None:
        self._tenancy = tenancy
        self._reader = reader
        self._definitions = definitions

    async def get(self, caller: Caller, execution_id: str) -> Row:
        """One execution; raises NotFound."""
        return shown(caller, there(await self._reader.row(caller.org_id, execution_id)))

    async def detail(self, caller: Caller, execution_id: str) -> ExecutionDetail:
        """One execution with its steps and attempts; raises NotFound."""
        found = there(await self._reader.record(caller.org_id, execution_id))
        workflow = await self.workflow_of(found.row)
        row, steps = shown(caller, found.row), all_shown(caller, found.steps)
        return ExecutionDetail(row, steps, found.attempts, workflow, _may_trace(caller))

    async def step(self, caller: Caller, execution_id: str, path: str) -> ExecutionDetail:
        """One step, or one item (`map[3]`), with its attempts; no steps if it has no record. Raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await find_execution(connection, caller.org_id, execution_id)
            found = await queries.step_of(connection, caller.org_id, execution_id, path)
            attempts = await queries.attempts_of(connection, caller.org_id, execution_id, [path])
        steps = [] if found is None else [shown(caller, found)]
        workflow = await self.workflow_of(row)
        return ExecutionDetail(shown(caller, row), steps, attempts, workflow, _may_trace(caller))

    async def items(
        self,
        caller: Caller,
        execution_id: str,
        step_id: str,
        statuses: frozenset[str],
        *,
        after: str | None,
        limit: int,
    ) -> StepRecords:
        """A page of a step's items behind the one with the path `after`, by index; raises NotFound."""
        row = await self.get(caller, execution_id)
        workflow = await self.workflow_of(row)
        async with self._tenancy.transaction(caller.org_id) as connection:
            known = workflow is not None and step_id in workflow.by_id
            if not known and await queries.step_of(connection, caller.org_id, execution_id, step_id) is None:
                raise NotFound("There is no such step")
            items = await queries.items_of(
                connection, caller.org_id, execution_id, step_id, statuses, after=after or "", limit=limit
            )
            paths = [item["path"] for item in items]
            attempts = await queries.attempts_of(connection, caller.org_id, execution_id, paths)
        return StepRecords(all_shown(caller, items), attempts, _may_trace(caller))

    async def workflow_of(self, row: Row) -> CompiledWorkflow | None:
        """The definition an execution runs, None if it cannot be read any more."""
        return await self._definitions.of_record(row["org_id"], row["workflow_id"], row["workflow_version"])

    async def page(self, caller: Caller, wanted: ExecutionFilter, *, before: str | None, limit: int) -> Sequence[Row]:
        """The organisation's executions, the newest first."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            rows = await queries.page(connection, caller.org_id, wanted, before=before, limit=limit)
        return all_shown(caller, rows)

    async def metrics(self, caller: Caller, wanted: ExecutionFilter) -> Sequence[Row]:
        """Counts, durations, tokens and cost by status."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return await queries.status_counts(connection, caller.org_id, wanted)


Found = TypeVar("Found")


def there(found: Found | None) -> Found:
    """What was found; raises NotFound if nothing was."""
    if found is None:
        raise NotFound(NO_SUCH_EXECUTION)
    return found


async def find_execution(connection: AsyncConnection, org_id: str, execution_id: str) -> Row:
    """One execution of an organisation; raises NotFound."""
    return there(await queries.get(connection, org_id, execution_id))


def _may_trace(caller: Caller) -> bool:
    return caller.principal.allows(Permission.TRACES_READ)
