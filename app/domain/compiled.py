"""A definition made ready to run: checked, ordered, its expressions compiled. Immutable and shared by all its runs."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from jsonschema_rs import Validator

from app.domain.definition import RetryPolicy, RunIf, StepDefinition, WorkflowDefinition
from app.domain.errors import Problem
from app.domain.graph import Edge
from app.domain.jsontext import JSON, json_text
from app.domain.schemas import schema_problems
from app.domain.secrets import SecretUse
from app.domain.steps import Effect, StepSpec
from app.domain.templates import Template


@dataclass(frozen=True)
class CompiledStep:
    """One step, ready to plan. `number` is its 1-based topological position, `upstream` all its ancestors.

    `timeout` is in seconds and holds for one attempt. `items` are those of `for_each`, `until` ends a `repeat`. The
    resolved `with` still has references in place of `secrets`.
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
    items: Template | None = None
    until: Template | None = None
    cache_key: Template | None = None
    secrets: tuple[SecretUse, ...] = ()

    @cached_property
    def id(self) -> str:
        return self.definition.id

    @cached_property
    def title(self) -> str:
        return self.definition.title

    @cached_property
    def run_if(self) -> RunIf:
        return self.definition.run_if

    @cached_property
    def function(self) -> str:
        return self.spec.function(self.definition.config)

    @cached_property
    def immediate(self) -> bool:
        """Its attempts wait for nothing, neither themselves nor for a secret or an earlier result."""
        return self.spec.immediate and not self.secrets and self.definition.cache is None

    @cached_property
    def constant_config(self) -> str | None:
        """The JSON of a `with` that is always the same; None if there are expressions in it. Raises StepError."""
        return json_text(self.definition.config, f"The `with` of step '{self.id}'") if self.config.constant else None


@dataclass(frozen=True, slots=True)
class Slots:
    """Which limits an execution shares with others; see `Concurrency` and `RateLimit`. `rate_seconds` is the span."""

    concurrency_key: str | None = None
    concurrency_limit: int | None = None
    on_limit: str | None = None
    rate_key: str | None = None
    rate_limit: int | None = None
    rate_seconds: float | None = None


NO_LIMITS = Slots()


@dataclass(frozen=True)
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
    concurrency_key: Template | None = None
    rate_key: Template | None = None

    def step(self, path: str) -> CompiledStep:
        """The step that a path belongs to: itself, or the one whose item it is."""
        return self.by_id.get(path) or self.by_id[path.partition("[")[0]]

    def limits(self, input_value: JSON, execution: Mapping[str, JSON]) -> Slots:
        """The limits that an execution with this input comes under; `execution` has the `execution.*` values.

        Raises StepError if a key cannot be evaluated.
        """
        concurrency, rate = self.definition.concurrency, self.definition.rate_limit

        def lookup(name: str) -> JSON:
            return input_value if name == "input" else execution[name.partition(".")[2]]

        def key(template: Template | None, what: str) -> str:
            named = "" if template is None else json_text(template.evaluate(lookup), what)
            return sha256(f"{execution['workflow_id']}\x00{named}".encode()).hexdigest()[:32]

        return Slots(
            concurrency_key=None if concurrency is None else key(self.concurrency_key, "`concurrency.key`"),
            concurrency_limit=None if concurrency is None else concurrency.limit,
            on_limit=None if concurrency is None else concurrency.on_limit,
            rate_key=None if rate is None else key(self.rate_key, "`rate_limit.key`"),
            rate_limit=None if rate is None else rate.limit,
            rate_seconds=None if rate is None else rate.per,
        )

    @cached_property
    def children(self) -> Mapping[str, tuple[CompiledStep, ...]]:
        """The steps that need a step, by its id."""
        found: defaultdict[str, list[CompiledStep]] = defaultdict(list)
        for step in self.steps:
            for parent in {edge.parent for edge in step.edges}:
                found[parent].append(step)
        return {step.id: tuple(found[step.id]) for step in self.steps}

    @cached_property
    def secret_names(self) -> frozenset[str]:
        """The secrets that its steps use, all of them: expressions cannot choose one."""
        return frozenset(use.reference.name for step in self.steps for use in step.secrets)

    @cached_property
    def order(self) -> list[str]:
        """Ids of the steps in topological order."""
        return [step.id for step in self.steps]

    def input_problems(self, value: JSON) -> list[Problem]:
        """What is wrong with an input, by the workflow's schema; pointers are relative to the input."""
        if self.input_validator is None:
            return []
        return schema_problems(self.input_validator, value, "input_schema_mismatch")
