"""Workflows: saving definitions as immutable versions, reading them, and saying what keeps them from running."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from app import clock
from app.auth.principal import Caller
from app.db.queries import budgets
from app.db.queries import workflows as queries
from app.db.queries.workflows import WorkflowFilter
from app.db.tenancy import Tenancy
from app.domain.compiled import CompiledWorkflow
from app.domain.errors import MAX_PROBLEMS, Conflict, NotFound, Problem, Problems, StepstreamError, clean_text
from app.domain.jsontext import JSON, decode, encode
from app.domain.steps import StepSpec
from app.domain.validation import StepCatalog, check_definition
from app.engine.definitions import Definitions
from app.services.audit import Audit
from app.services.secrets import Secrets

WorkflowRow: TypeAlias = RowMapping
"""A workflow or a version of one as stored; JSON values as texts."""

IfMatch: TypeAlias = "frozenset[int] | Literal['*'] | None"
"""The versions that a change may be based on, or any; None when the caller named none."""

_OWN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_NAME = 200
_MAX_DESCRIPTION = 4_000
_NO_PROBLEMS = "[]"


class StepLibrary(StepCatalog, Protocol):
    """The step types of this deployment."""

    def specs(self) -> Sequence[StepSpec]:
        """All declarations, in the order of documentation."""


@dataclass(frozen=True, slots=True)
class WorkflowDetail:
    """A workflow with the definition of its latest version, and what keeps that from running here and now."""

    row: WorkflowRow
    problems: Sequence[Problem]


@dataclass(frozen=True, slots=True)
class Validation:
    """`valid`: the definition can be saved to run. What only the set-up lacks is among the problems all the same."""

    valid: bool
    problems: Sequence[Problem]


@dataclass(frozen=True, slots=True)
class _Proposal:
    """A document that may be saved. `problems` are the definition's, `missing` the set-up's."""

    own: dict[str, str | None]
    name: str
    description: str | None
    definition: str
    problems: list[Problem]
    missing: list[Problem]

    @property
    def shown(self) -> list[Problem]:
        return self.problems or self.missing

    @property
    def stored_problems(self) -> str:
        problems: list[JSON] = [
            {"pointer": problem.pointer, "code": problem.code, "detail": problem.detail} for problem in self.problems
        ]
        return encode(problems)

    def columns(self) -> dict[str, Any]:
        project = {"project_id": self.own["project_id"]} if "project_id" in self.own else {}
        return {"name": self.name, "description": self.description, **project}


class Workflows:
    """The use cases about workflows and step types."""

    def __init__(
        self, tenancy: Tenancy, definitions: Definitions, catalog: StepLibrary, secrets: Secrets, audit: Audit
    ) -> None:
        self._tenancy = tenancy
        self._definitions = definitions
        self._catalog = catalog
        self._secrets = secrets
        self._audit = audit

    async def create(self, caller: Caller, document: object, *, draft: bool) -> WorkflowDetail:
        """Save a definition as a new workflow, under its own `id` if it brings one.

        Raises Problems (`workflow_invalid`) for a definition that cannot run, unless `draft`; Conflict for a taken id.
        """
        proposal = await self._proposal(caller.org_id, document, draft=draft)
        workflow_id = proposal.own.get("id") or clock.new_id("wf")
        async with self._tenancy.transaction(caller.org_id) as connection:
            version = await queries.add(connection, caller.org_id, workflow_id, proposal.columns())
            if version is None:
                raise Conflict("There is a workflow with this id already, perhaps archived", code="already_exists")
            await self._save(connection, caller, workflow_id, version, proposal, publish=not draft)
            await self._note(connection, caller, "workflow.created", workflow_id, version, proposal.name)
            row = _found(await queries.get(connection, caller.org_id, workflow_id))
        return WorkflowDetail(row, proposal.shown)

    async def get(self, caller: Caller, workflow_id: str) -> WorkflowDetail:
        """One workflow, archived ones too; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = _found(await queries.get(connection, caller.org_id, workflow_id))
        return WorkflowDetail(row, await self._problems_now(row))

    async def page(
        self, caller: Caller, wanted: WorkflowFilter, *, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[WorkflowRow]:
        """A page of workflows without definitions, the newest first."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return await queries.page(connection, caller.org_id, wanted, before=before, limit=limit)

    async def replace(
        self, caller: Caller, workflow_id: str, document: object, *, if_match: IfMatch, draft: bool
    ) -> WorkflowDetail:
        """Save a definition as the next version; new executions use it, unless it is a draft.

        The document of the latest version again makes no new version. Raises NotFound, Problems as `create` does,
        Conflict for an archived workflow, and `precondition_required` or `version_conflict` by `if_match`.
        """
        proposal = await self._proposal(caller.org_id, document, draft=draft, workflow_id=workflow_id)
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = _found(await queries.lock(connection, caller.org_id, workflow_id))
            _demand_match(row, if_match)
            if row["archived_at"] is not None:
                raise Conflict("The workflow is archived and cannot be changed")
            if await self._apply(connection, caller, row, proposal, publish=not draft):
                row = _found(await queries.get(connection, caller.org_id, workflow_id))
                await self._note(
                    connection, caller, "workflow.updated", workflow_id, row["latest_version"], proposal.name
                )
        return WorkflowDetail(row, proposal.shown)

    async def delete(self, caller: Caller, workflow_id: str, if_match: IfMatch) -> None:
        """Remove a workflow; one that has executions is archived instead. Raises like `replace`."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = _found(await queries.lock(connection, caller.org_id, workflow_id))
            _demand_match(row, if_match)
            if await queries.remove(connection, caller.org_id, workflow_id):
                await budgets.remove(connection, caller.org_id, workflow_id)
                action = "workflow.deleted"
            elif row["archived_at"] is None:
                await queries.archive(connection, caller.org_id, workflow_id)
                action = "workflow.archived"
            else:
                return
            await self._note(connection, caller, action, workflow_id, row["latest_version"], row["name"])

    async def validate(self, caller: Caller, document: object) -> Validation:
        """Everything that is wrong with a definition; saves nothing."""
        body, _, wrong = _parted(document)
        workflow, problems, missing = await self._examined(caller.org_id, body)
        found = wrong + problems
        return Validation(workflow is not None and not wrong, (found or missing)[:MAX_PROBLEMS])

    async def versions(
        self, caller: Caller, workflow_id: str, *, before: int | None, limit: int
    ) -> Sequence[WorkflowRow]:
        """A page of versions without definitions, the newest first; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            _found(await queries.get(connection, caller.org_id, workflow_id))
            return await queries.versions_page(connection, caller.org_id, workflow_id, before=before, limit=limit)

    async def version(self, caller: Caller, workflow_id: str, number: int) -> WorkflowRow:
        """One version with its definition and the problems it was saved with; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            row = await queries.version(connection, caller.org_id, workflow_id, number)
        return _found(row, "There is no such version of a workflow")

    async def stats(self, caller: Caller, workflow_id: str) -> WorkflowRow:
        """Counters and durations; raises NotFound."""
        async with self._tenancy.transaction(caller.org_id) as connection:
            return _found(await queries.stats(connection, caller.org_id, workflow_id))

    def step_types(self) -> Sequence[StepSpec]:
        """The step types that definitions may use."""
        return self._catalog.specs()

    def step_type(self, name: str) -> StepSpec:
        """One step type; raises NotFound."""
        spec = self._catalog.spec(name)
        if spec is None:
            raise NotFound("There is no such step type")
        return spec

    async def _proposal(
        self, org_id: str, document: object, *, draft: bool, workflow_id: str | None = None
    ) -> _Proposal:
        body, own, wrong = _parted(document)
        if workflow_id is not None and own.get("id", workflow_id) not in (workflow_id, None):
            wrong.append(Problem("invalid_value", "This is the id of another workflow: leave it out", "/id"))
        _, problems, missing = await self._examined(org_id, body)
        if wrong:
            raise Problems(f"{wrong[0].pointer}: {wrong[0].detail}", wrong + problems)
        if not isinstance(body, dict):
            raise Problems(problems[0].detail, problems)
        if problems and not draft:
            raise _cannot_run(problems)
        name = body.get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME or not name.isprintable():
            detail = f"Even a draft has a `name` of 1 to {_MAX_NAME} printable characters"
            raise Problems(detail, [Problem("invalid_value", detail, "/name")])
        text = body.get("description")
        description = clean_text(text, _MAX_DESCRIPTION) if isinstance(text, str) else None
        return _Proposal(own, name, description, encode(body), problems[:MAX_PROBLEMS], missing[:MAX_PROBLEMS])

    async def _examined(
        self, org_id: str, body: object
    ) -> tuple[CompiledWorkflow | None, list[Problem], list[Problem]]:
        """The compiled definition or its problems, and what the set-up lacks for it."""
        # Hundreds of expressions take a second to compile, and a model's library as long to import: not on the loop.
        checked = await asyncio.to_thread(check_definition, body, self._catalog)
        if checked.workflow is None:
            return None, checked.problems, []
        return checked.workflow, [], await self._missing(org_id, checked.workflow)

    async def _missing(self, org_id: str, workflow: CompiledWorkflow) -> list[Problem]:
        missing = await asyncio.to_thread(self._definitions.missing_setup, workflow)
        return [*missing, *await self._secrets.problems(org_id, workflow)]

    async def _problems_now(self, row: WorkflowRow) -> Sequence[Problem]:
        if row["problems"] != _NO_PROBLEMS:
            # What a draft lacked when it was saved may be there by now, a function for instance.
            _, problems, missing = await self._examined(row["org_id"], decode(row["definition"]))
            return (problems or missing)[:MAX_PROBLEMS]
        try:
            workflow = await self._definitions.get(row["org_id"], row["id"], row["latest_version"])
        except Problems as error:
            return error.problems
        return (await self._missing(row["org_id"], workflow))[:MAX_PROBLEMS]

    async def _apply(
        self, connection: AsyncConnection, caller: Caller, row: WorkflowRow, proposal: _Proposal, *, publish: bool
    ) -> bool:
        """Save what differs from the locked row; False if nothing does."""
        version = row["latest_version"]
        new = (row["definition"], row["problems"]) != (proposal.definition, proposal.stored_problems)
        changed = {name: value for name, value in proposal.columns().items() if row[name] != value}
        if not new and not changed and (not publish or row["published_version"] == version):
            return False
        if changed:
            await queries.change(connection, row["org_id"], row["id"], changed)
        if new:
            await self._save(connection, caller, row["id"], version + 1, proposal, publish=publish)
        elif publish:
            await queries.change(connection, row["org_id"], row["id"], {"published_version": version})
        return True

    async def _save(
        self,
        connection: AsyncConnection,
        caller: Caller,
        workflow_id: str,
        version: int,
        proposal: _Proposal,
        *,
        publish: bool,
    ) -> None:
        await queries.add_version(
            connection,
            caller.org_id,
            workflow_id,
            version,
            definition=proposal.definition,
            problems=proposal.stored_problems,
            created_by=caller.user_id,
        )
        pointers = {"latest_version": version} | ({"published_version": version} if publish else {})
        await queries.change(connection, caller.org_id, workflow_id, pointers)

    async def _note(
        self, connection: AsyncConnection, caller: Caller, action: str, workflow_id: str, version: int, name: str
    ) -> None:
        await self._audit.note(connection, caller, action, "workflow", workflow_id, {"version": version, "name": name})


def _parted(document: object) -> tuple[object, dict[str, str | None], list[Problem]]:
    """The definition alone, what the document says of the workflow as a record, and what is wrong with that."""
    if not isinstance(document, dict):
        return document, {}, []
    own = {key: document[key] for key in ("id", "project_id") if key in document}
    wrong = [
        Problem("invalid_value", "An id is 1 to 64 letters, digits, `-` or `_`", f"/{key}")
        for key, value in own.items()
        if value is not None and not (isinstance(value, str) and _OWN_ID.fullmatch(value))
    ]
    return {key: value for key, value in document.items() if key not in own}, own, wrong


def _cannot_run(problems: list[Problem]) -> Problems:
    first = problems[0]
    where = f"{first.pointer}: " if first.pointer else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    detail = f"The workflow cannot run: {where}{first.detail}{more}. Add `?draft=true` to save it as a draft."
    return Problems(detail, problems, code="workflow_invalid")


def _found(row: WorkflowRow | None, otherwise: str = "There is no such workflow") -> WorkflowRow:
    if row is None:
        raise NotFound(otherwise)
    return row


def _demand_match(row: WorkflowRow, if_match: IfMatch) -> None:
    if if_match is None:
        detail = "Send `If-Match` with the ETag of the version that the change is based on, or `*`"
        raise StepstreamError(detail, code="precondition_required")
    if if_match != "*" and row["latest_version"] not in if_match:
        detail = f"The workflow is at version {row['latest_version']} by now"
        raise Conflict(detail, code="version_conflict")
