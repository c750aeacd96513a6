"""A definition made ready to run: checked, ordered, its expressions compiled. Immutable and shared by all its runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from jsonschema_rs import Validator

from app.domain.definition import RetryPolicy, RunIf, StepDefinition, WorkflowDefinition
from app.domain.errors import Problem
from app.domain.graph import Edge
from app.domain.jsontext import JSON
from app.domain.schemas import schema_problems
from app.domain.steps import Effect, StepSpec
from app.domain.templates import Template


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """One step, ready to plan. `number` is its 1-based topological position, `upstream` all its ancestors.

    `timeout` is in seconds and holds for one attempt.
    """

    definition: StepDefinition
    spec: StepSpec
    number: int
    edges: tuple[Edge, ...]
    upstream: frozenset[str]
    condition: Template | None
    config: Template
    effect: Effect
    retry: RetryPolicy
    timeout: float

    @property
    def id(self) -> str:
        return self.definition.id

    @property
    def run_if(self) -> RunIf:
        return self.definition.run_if

    @property
    def function(self) -> str:
        return self.spec.function(self.definition.config)


@dataclass(frozen=True, slots=True)
class CompiledWorkflow:
    """A workflow, ready to run; `steps` are in topological order. `graph_text` is the JSON of its execution_graph."""

    definition: WorkflowDefinition
    steps: tuple[CompiledStep, ...]
    by_id: Mapping[str, CompiledStep]
    sinks: tuple[str, ...]
    output: Template | None
    risk_score: Template | None
    input_validator: Validator | None
    graph_text: str

    @property
    def order(self) -> list[str]:
        """Ids of the steps in topological order."""
        return [step.id for step in self.steps]

    def input_problems(self, value: JSON) -> list[Problem]:
        """What is wrong with an input, by the workflow's schema; pointers are relative to the input."""
        if self.input_validator is None:
            return []
        return schema_problems(self.input_validator, value, "input_schema_mismatch")
