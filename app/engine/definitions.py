"""Stored workflow versions made ready to run, kept because versions never change."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from app.domain.compiled import CompiledWorkflow
from app.domain.errors import Problem, Problems
from app.domain.validation import StepCatalog, check_definition
from app.engine.ports import DefinitionSource

KEEP = 1_000

Key: TypeAlias = tuple[str, str, int]


@dataclass(slots=True)
class Definitions:
    """Compiled workflow versions by (organisation, workflow, version), the most recently used ones in memory."""

    source: DefinitionSource
    catalog: StepCatalog
    _loading: dict[Key, "asyncio.Task[CompiledWorkflow]"] = field(default_factory=dict)
    _kept: OrderedDict[Key, CompiledWorkflow] = field(default_factory=OrderedDict)

    async def get(self, org_id: str, workflow_id: str, version: int) -> CompiledWorkflow:
        """The compiled version; raises Problems (`workflow_invalid`) if it cannot run here."""
        key = (org_id, workflow_id, version)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.create_task(self._load(key), name=f"load {workflow_id}")
            loading.add_done_callback(partial(self._loaded, key))
        # A crowd of executions of one workflow loads it once, and who leaves the crowd does not end it.
        return await asyncio.shield(loading)

    async def of_record(self, org_id: str, workflow_id: str, version: int) -> CompiledWorkflow | None:
        """The version that an execution ran; None if step types it used are no longer there, as the record still is."""
        try:
            return await self.get(org_id, workflow_id, version)
        except Problems:
            return None

    async def _load(self, key: Key) -> CompiledWorkflow:
        checked = check_definition(await self.source.definition(*key), self.catalog)
        if checked.workflow is None:
            raise invalid(checked.problems)
        self._kept[key] = checked.workflow
        if len(self._kept) > KEEP:
            self._kept.popitem(last=False)
        return checked.workflow

    def _loaded(self, key: Key, loading: "asyncio.Task[CompiledWorkflow]") -> None:
        del self._loading[key]
        if not loading.cancelled():
            loading.exception()  # retrieved: nobody may be waiting any more

    def missing_setup(self, workflow: CompiledWorkflow) -> list[Problem]:
        """What the surroundings lack now (a model without its key), though the definition itself is right."""
        return [
            Problem(problem.code, problem.detail, f"/steps/{index}/with{problem.pointer}")
            for index, step in enumerate(workflow.definition.steps)
            for problem in self.catalog.missing_setup(step.type, step.config)
        ]


def invalid(problems: list[Problem]) -> Problems:
    """The refusal to run a workflow, with everything that is wrong with it; the first problem is named in words."""
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Problems(f"The workflow cannot run: {first.detail}{more}", problems, code="workflow_invalid")
