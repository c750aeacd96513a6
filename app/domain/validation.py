"""Every problem of a definition at once, each with a stable code and a JSON pointer; none left: a compiled workflow.

Checked in order of meaning: the shape of the document, names and edges, step settings against their types, expressions.
A problem in one part does not hide those of another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from jsonschema_rs import Validator
from pydantic import ValidationError

from app.domain.compiled import CompiledStep, CompiledWorkflow
from app.domain.definition import RetryPolicy, StepDefinition, WorkflowDefinition, split_need
from app.domain.errors import Problem
from app.domain.expressions import Environment, escape, is_template
from app.domain.graph import Edge, ancestors, cycles, depth, topological_order
from app.domain.jsontext import JSON, NotJson, encode
from app.domain.schemas import UnsupportedSchema, compile_schema, schema_problems
from app.domain.secrets import SecretUse, secret_uses
from app.domain.steps import Effect, StepSpec
from app.domain.templates import Template, TemplateCompiler

MAX_STEPS, MAX_EDGES, MAX_PARENTS, MAX_DEPTH = 500, 2_000, 32, 200

_SHAPE_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "invalid_character": "invalid_character",
    "reserved_word": "invalid_step_id",
}


class StepCatalog(Protocol):
    """The step types a definition may use."""

    def spec(self, step_type: str) -> StepSpec | None:
        """The declaration of a type, None if there is none of that name."""

    def check(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        """Problems of `with` beyond its schema; pointers relative to `with`."""

    def missing_setup(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        """What the surroundings lack for this `with` now; it does not make a definition wrong."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a check: a workflow ready to run, or (None) the problems that keep it from running."""

    workflow: CompiledWorkflow | None
    problems: list[Problem]


def check_definition(document: object, catalog: StepCatalog) -> Checked:
    """Check a document as users write it; never raises for anything in it."""
    return _Check(catalog).run(document)


@dataclass(slots=True)
class _Check:
    catalog: StepCatalog
    problems: list[Problem] = field(default_factory=list)
    schemas: dict[str, Validator] = field(default_factory=dict)

    def run(self, document: object) -> Checked:
        if not isinstance(document, dict):
            return Checked(None, [Problem("validation_error", "A workflow is an object with `name` and `steps`")])
        try:
            encode(document)
        except NotJson as error:
            return Checked(None, [Problem("validation_error", f"A workflow is JSON: {error}")])
        raw = document.get("steps")
        if isinstance(raw, list) and len(raw) > MAX_STEPS:
            return Checked(None, [Problem("graph_too_large", f"A workflow has at most {MAX_STEPS} steps", "/steps")])
        definition = self._shape(document)
        steps = self._parsed_steps(document)
        parents = self._edges(steps, _all_ids(document))
        order = topological_order(parents)
        if len(order) < len(parents):
            self._cycles(parents, steps)
        upstream = ancestors(parents, order)
        if depth(parents, order) > MAX_DEPTH:
            self._problem("graph_too_large", f"The longest path has more than {MAX_DEPTH} steps", "/steps")
        environment = Environment(_all_ids(document))
        every = frozenset(parents)
        numbers = {step_id: number for number, step_id in enumerate(order, 1)}
        compiled = {
            step.id: self._step(
                step,
                f"/steps/{index}",
                numbers.get(step.id, 0),
                TemplateCompiler(environment, upstream.get(step.id, every), self.problems),
            )
            for index, step in steps.items()
        }
        compiler = TemplateCompiler(environment, every, self.problems)
        output, risk = (
            None if document.get(name) is None else compiler.template(document[name], f"/{name}")
            for name in ("output", "risk_score")
        )
        validator = self._input_schema(document.get("input"))
        before = TemplateCompiler(environment, frozenset(), self.problems)
        concurrency, rate = (
            self._limit_key(document.get(name), before, name) for name in ("concurrency", "rate_limit")
        )
        if self.problems or definition is None:
            return Checked(None, self.problems)
        ready = tuple(step for step in (compiled[step_id] for step_id in order) if step is not None)
        workflow = _workflow(definition, ready, output, risk, validator)
        return Checked(replace(workflow, concurrency_key=concurrency, rate_key=rate), [])

    def _limit_key(self, limit: object, compiler: TemplateCompiler, name: str) -> Template | None:
        """The key of a limit, which looks at the input and the execution only."""
        key = limit.get("key") if isinstance(limit, dict) else None
        return compiler.template(key, f"/{name}/key") if isinstance(key, str) else None

    def _shape(self, document: dict[str, Any]) -> WorkflowDefinition | None:
        try:
            return WorkflowDefinition.model_validate(document)
        except ValidationError as error:
            for item in error.errors(include_url=False, include_input=False, include_context=False):
                # Steps that are wrong themselves are missing in pydantic's count of steps.
                if not (item["type"] == "too_short" and item["loc"] == ("steps",) and document["steps"]):
                    self.problems.append(_shape_problem(item["loc"], item["type"], item["msg"]))
            return None

    def _parsed_steps(self, document: dict[str, Any]) -> dict[int, StepDefinition]:
        """The steps whose own shape is right, by position; a repeated id is a problem and counts once."""
        parsed: dict[int, StepDefinition] = {}
        seen: set[str] = set()
        raw = document.get("steps")
        for index, item in enumerate(raw if isinstance(raw, list) else []):
            try:
                step = StepDefinition.model_validate(item)
            except ValidationError:
                continue
            if step.id in seen:
                self._problem("duplicate_step_id", f"Another step is already called '{step.id}'", f"/steps/{index}/id")
                continue
            seen.add(step.id)
            parsed[index] = step
        return parsed

    def _edges(self, steps: Mapping[int, StepDefinition], known: frozenset[str]) -> dict[str, list[str]]:
        """Parents by step id, wrong needs left out."""
        by_id = {step.id: step for step in steps.values()}
        parents: dict[str, list[str]] = {}
        for index, step in steps.items():
            parents[step.id] = []
            seen: set[str] = set()
            for position, need in enumerate(step.needs[:MAX_PARENTS]):
                problem = self._need_problem(step, need, seen, by_id, known)
                seen.add(need)
                if problem is not None:
                    self._problem(*problem, f"/steps/{index}/needs/{position}")
                elif split_need(need)[0] in by_id:
                    parents[step.id].append(split_need(need)[0])
            if len(step.needs) > MAX_PARENTS:
                self._problem("graph_too_large", f"A step has at most {MAX_PARENTS} needs", f"/steps/{index}/needs")
        if sum(len(needs) for needs in parents.values()) > MAX_EDGES:
            self._problem("graph_too_large", f"A workflow has at most {MAX_EDGES} edges", "/steps")
        return parents

    def _need_problem(
        self,
        step: StepDefinition,
        need: str,
        seen: set[str],
        by_id: Mapping[str, StepDefinition],
        known: frozenset[str],
    ) -> tuple[str, str] | None:
        parent, port = split_need(need)
        if parent == step.id:
            return "graph_self_loop", f"Step '{step.id}' needs itself"
        if parent not in known:
            return "unknown_step", f"'{need}' names no step of this workflow"
        if need in seen:
            return "duplicate_edge", f"'{need}' is needed twice"
        spec = self.catalog.spec(by_id[parent].type) if parent in by_id else None
        if port is None or spec is None:
            return None
        ports = frozenset[str]() if by_id[parent].for_each is not None else spec.ports(by_id[parent].config)
        if port in ports:
            return None
        named = ", ".join(sorted(ports)) or "none"
        return "unknown_port", f"Step '{parent}' has no port '{port}' (its ports: {named})"

    def _cycles(self, parents: Mapping[str, list[str]], steps: Mapping[int, StepDefinition]) -> None:
        positions = {step.id: index for index, step in steps.items()}
        for group in cycles(parents):
            members = frozenset(group)
            for index in (positions[step_id] for step_id in group):
                step = steps[index]
                for position, need in enumerate(step.needs):
                    if (parent := split_need(need)[0]) in members and parent != step.id:
                        detail = f"{step.id} needs {parent}, and steps {', '.join(group)} form a cycle"
                        self._problem("graph_cycle", detail, f"/steps/{index}/needs/{position}")

    def _step(self, step: StepDefinition, at: str, number: int, compiler: TemplateCompiler) -> CompiledStep | None:
        inner = replace(compiler, local=_local_names(step))
        config = inner.template(step.config, f"{at}/with")
        condition = None if step.condition is None else compiler.condition(step.condition, f"{at}/if")
        if step.run_if == "any_failed" and not step.needs:
            detail = "`run_if: any_failed` looks at the steps before this one, but `needs` is empty"
            self._problem("run_if_without_needs", detail, f"{at}/run_if")
        for position, name in enumerate(step.undoes):
            if name not in compiler.upstream:
                self._problem("unknown_step", f"'{name}' is no step before '{step.id}'", f"{at}/undoes/{position}")
        spec = self.catalog.spec(step.type)
        if spec is None:
            self._problem("unknown_step_type", f"There is no step type '{step.type}'", f"{at}/type")
            return None
        secrets = self._config(step, spec, f"{at}/with")
        if step.for_each is not None and step.repeat is not None:
            detail = "`for_each` and `repeat` do not go together: repeat a sub-workflow, or loop in one"
            self._problem("invalid_value", detail, f"{at}/repeat")
        effect = spec.effect_of(step.config)
        cache_key = None if step.cache is None or step.cache.key is None else step.cache.key
        return CompiledStep(
            definition=step,
            spec=spec,
            number=number,
            edges=tuple(Edge(*split_need(need)) for need in step.needs),
            upstream=compiler.upstream,
            condition=condition,
            config=config,
            effect=effect,
            retry=step.retry or _default_retry(spec, effect),
            timeout=spec.timeout if step.timeout is None else step.timeout,
            items=None if step.for_each is None else compiler.template(step.for_each, f"{at}/for_each"),
            until=None if step.repeat is None else inner.condition(step.repeat.until, f"{at}/repeat/until"),
            cache_key=None if cache_key is None else inner.template(cache_key, f"{at}/cache/key"),
            secrets=secrets,
        )

    def _config(self, step: StepDefinition, spec: StepSpec, at: str) -> tuple[SecretUse, ...]:
        """Check `with` by its type's schema, leaving alone what only a run will know; the secrets in it."""
        secrets, wrong = secret_uses(step.config, spec.secrets_in)
        if spec.type not in self.schemas:
            self.schemas[spec.type] = compile_schema(dict(spec.config_schema))
        found = [
            problem
            for problem in schema_problems(self.schemas[spec.type], step.config, "invalid_config")
            if not _has_template(step.config, problem.pointer)
        ]
        for problem in wrong or found or self.catalog.check(step.type, step.config):
            self._problem(problem.code, problem.detail, at + problem.pointer)
        return tuple(secrets)

    def _input_schema(self, schema: object) -> Validator | None:
        if not isinstance(schema, dict | bool):
            return None
        try:
            return compile_schema(schema)
        except UnsupportedSchema as error:
            detail = f"`input` is no JSON Schema that can be used: {error}"
            self._problem("unsupported_schema", detail, f"/input{error.pointer}")
            return None

    def _problem(self, code: str, detail: str, pointer: str) -> None:
        self.problems.append(Problem(code, detail, pointer))


def _all_ids(document: Mapping[str, Any]) -> frozenset[str]:
    """Every id written in the document, so that a step broken elsewhere does not make its references look wrong."""
    raw = document.get("steps")
    items = raw if isinstance(raw, list) else []
    ids = (item.get("id") for item in items if isinstance(item, dict))
    return frozenset(name for name in ids if isinstance(name, str) and name.isidentifier() and name.isascii())


def _shape_problem(location: tuple[int | str, ...], kind: str, message: str) -> Problem:
    pointer = "".join(f"/{escape(token)}" for token in location)
    code = _SHAPE_CODES.get(kind, "invalid_value")
    if location == ("steps",):
        code = {"too_short": "graph_empty"}.get(kind, code)
    elif kind == "string_pattern_mismatch" and location[-1] == "id":
        code = "invalid_step_id"
    return Problem(code, message.removeprefix("Value error, "), pointer)


def _has_template(config: Any, pointer: str) -> bool:
    """True if the value at a pointer is an expression, or has one in it that could still make it right."""
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        config = config[int(key)] if isinstance(config, list) else config[key]
        if is_template(config):
            return True
    return bool(pointer) and _contains_template(config)


def _contains_template(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_contains_template(item) for item in value.values())
    if isinstance(value, list):
        return any(_contains_template(item) for item in value)
    return is_template(value)


def _local_names(step: StepDefinition) -> frozenset[str]:
    if step.for_each is not None:
        return frozenset({"item", "index"})
    return frozenset({"output", "index"}) if step.repeat is not None else frozenset()


def _default_retry(spec: StepSpec, effect: Effect) -> RetryPolicy:
    """A type's own policy; but what must happen once is not tried again unless the author says so."""
    return spec.retry.model_copy(update={"max_attempts": 1}) if effect is Effect.ONCE else spec.retry


def _workflow(
    definition: WorkflowDefinition,
    steps: tuple[CompiledStep, ...],
    output: Template | None,
    risk: Template | None,
    validator: Validator | None,
) -> CompiledWorkflow:
    parents = {edge.parent for step in steps for edge in step.edges}
    graph: JSON = {
        "nodes": [
            {"id": step.id, "name": step.definition.title, "type": step.definition.type, "step_number": step.number}
            for step in steps
        ],
        "edges": [{"from": edge.parent, "port": edge.port, "to": step.id} for step in steps for edge in step.edges],
        "order": [step.id for step in steps],
    }
    return CompiledWorkflow(
        definition=definition,
        steps=steps,
        by_id={step.id: step for step in steps},
        sinks=tuple(step.id for step in steps if step.id not in parents),
        output=output,
        risk_score=risk,
        input_validator=validator,
        graph_text=encode(graph),
    )
