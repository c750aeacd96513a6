"""Stored workflow versions made ready to run, kept because versions never change."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from app.domain.compiled import CompiledWorkflow
from app.domain.errors import Problem, Problems
from app.domain.validation import StepCatalog, check_definition
from app.engine.ports import DefinitionSource

KEEP = 1_000


@dataclass(slots=True)
class Definitions:
    """Compiled workflow versions by (organisation, workflow, version), the most recently used ones in memory."""

    source: DefinitionSource
    catalog: StepCatalog
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _kept: OrderedDict[tuple[str, str, int], CompiledWorkflow] = field(default_factory=OrderedDict)

    async def get(self, org_id: str, workflow_id: str, version: int) -> CompiledWorkflow:
        """The compiled version; raises Problems (`workflow_invalid`) if it cannot run here."""
        key = (org_id, workflow_id, version)
        if key not in self._kept:
            # One at a time: a crowd of executions of one workflow compiles it once.
            async with self._loading:
                if key not in self._kept:
                    await self._load(key)
        self._kept.move_to_end(key)
        return self._kept[key]

    async def _load(self, key: tuple[str, str, int]) -> None:
        org_id, workflow_id, version = key
        checked = check_definition(await self.source.definition(org_id, workflow_id, version), self.catalog)
        if checked.workflow is None:
            raise invalid(checked.problems)
        self._kept[key] = checked.workflow
        if len(self._kept) > KEEP:
            self._kept.popitem(last=False)

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
