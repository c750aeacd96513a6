"""The planner's phases for what begins: steps whose needs are settled, items of a `for_each`, and what holds them."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from itertools import islice

from app.domain.budgets import Spent, first_used_up
from app.domain.compiled import CompiledStep, CompiledWorkflow
from app.domain.control import NO_BUDGET, Pause, PauseReason
from app.domain.decisions import (
    CompleteStep,
    Decision,
    FailStep,
    Hold,
    PinStep,
    SkipStep,
    StartMap,
    StartStep,
)
from app.domain.errors import Failure, StepError, failure_of
from app.domain.jsontext import JSON, decode, json_text
from app.domain.snapshot import Snapshot, item_path
from app.domain.states import ExecutionStatus, StepStatus
from app.domain.step_state import MapState, StepState, Succeeded

MOST_STARTS = 4
"""That are planned at once: each may have had expressions to evaluate, and whoever plans has other runs to drive."""

MAX_ITEMS = 10_000
MAX_MAP_OUTPUT = 16 << 20
"""Characters of all results of a `for_each` together."""

_ACCEPTS_FAILURE = frozenset({"any_failed", "all_done"})


def starting(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Sequence[Decision]:
    """What becomes of pending steps whose needs are settled: started, pinned, skipped or failed."""
    if not snapshot.frontier.ready or not snapshot.goes_on:
        return ()
    return [*islice(_verdicts(snapshot, now), MOST_STARTS)]


def _verdicts(snapshot: Snapshot, now: datetime) -> Iterator[Decision]:
    failing = snapshot.first_failure is not None
    for step in snapshot.frontier.startable():
        verdict = _verdict(step, snapshot, failing, now)
        yield verdict
        if bars_others(verdict, snapshot):
            return
        failing = failing or (isinstance(verdict, FailStep) and verdict.stops_run)


def mapping(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Sequence[Decision]:
    """What becomes of steps with `for_each`: more items start, or the step ends with its items."""
    if not snapshot.maps or snapshot.control.stop is not None or snapshot.status is not ExecutionStatus.RUNNING:
        return ()
    return [*islice(_mapped(workflow, snapshot, now), MOST_STARTS)]


def _mapped(workflow: CompiledWorkflow, snapshot: Snapshot, now: datetime) -> Iterator[Decision]:
    for step_id, items in snapshot.maps.items():
        if snapshot.steps[step_id].status is not StepStatus.RUNNING:
            continue
        step = workflow.by_id[step_id]
        if not items.active and (items.failure is not None or items.exhausted):
            yield _map_ended(step, items)
        elif items.failure is None and not snapshot.control.held:
            for decision in _next_items(step, items, snapshot, now):
                yield decision
                if bars_others(decision, snapshot):
                    return


def attempt(step: CompiledStep, path: str, snapshot: Snapshot, now: datetime) -> Decision:
    """An attempt with the `with` as it is now; or what keeps it from starting."""
    if (hold := _hold(step, snapshot, now)) is not None:
        return hold
    try:
        if (text := step.constant_config) is None:
            config = step.config.evaluate(snapshot.lookup_for(path))
            text = json_text(config, f"The `with` of step '{step.id}'")
        else:
            config = decode(text)
        return StartStep(path, config, text, _cache_key(step, snapshot, path, text))
    except StepError as error:
        return FailStep(path, failure_of(error), stops_run(step, path))


def stops_run(step: CompiledStep, path: str) -> bool:
    """Whether the run fails if this fails for good; of items, the step they belong to decides."""
    return not step.definition.continue_on_error and path == step.id


def _verdict(step: CompiledStep, snapshot: Snapshot, failing: bool, now: datetime) -> Decision:
    if snapshot.control.only is not None:
        return _alone(step, snapshot, now)
    if failing and step.run_if not in _ACCEPTS_FAILURE:
        return SkipStep(step.id, "execution_failed")
    if (reason := _why_not(step, snapshot)) is not None:
        return SkipStep(step.id, reason)
    try:
        if step.condition is not None and not step.condition.truth(snapshot.lookup):
            return SkipStep(step.id, "condition_false")
    except StepError as error:
        return FailStep(step.id, failure_of(error), stops_run(step, step.id))
    return _begun(step, snapshot, now)


def _alone(step: CompiledStep, snapshot: Snapshot, now: datetime) -> Decision:
    """One step runs alone, whatever comes before it; the others have the outputs they were given, or none."""
    if step.id == snapshot.control.only or step.id in snapshot.control.pins:
        return _begun(step, snapshot, now)
    return SkipStep(step.id, "not_selected")


def _begun(step: CompiledStep, snapshot: Snapshot, now: datetime) -> Decision:
    if step.id in snapshot.control.pins:
        return _pinned(step, snapshot.control.pins[step.id])
    if step.items is None:
        return attempt(step, step.id, snapshot, now)
    if (hold := _hold(step, snapshot, now)) is not None:
        return hold
    try:
        return StartMap(step.id, _values(step, step.items.evaluate(snapshot.lookup)))
    except StepError as error:
        return FailStep(step.id, failure_of(error), stops_run(step, step.id))


def _pinned(step: CompiledStep, output: JSON) -> Decision:
    try:
        text = json_text(output, f"The output given to step '{step.id}'")
    except StepError as error:
        return FailStep(step.id, failure_of(error), stops_run(step, step.id))
    ports = step.spec.ports_taken(step.definition.config, output)
    return PinStep(step.id, Succeeded(output, text, ports, note="pinned"))


def _why_not(step: CompiledStep, snapshot: Snapshot) -> str | None:
    """The reason to skip a step by its `run_if`; None: it may start."""
    parents = [(edge, snapshot.steps[edge.parent]) for edge in step.edges]
    taken = [_taken(edge.port, state) for edge, state in parents]
    match step.run_if:
        case "all_done":
            return None
        case "any_failed":
            failed = any(snapshot.steps[name].status is StepStatus.FAILED for name in step.upstream)
            return None if failed else "nothing_failed"
        case "all_succeeded":
            succeeded = all(state.status is StepStatus.COMPLETED for _, state in parents)
            return None if succeeded and all(taken) else "not_all_succeeded"
        case _:
            return None if any(taken) or not parents else "not_taken"


def _taken(port: str | None, parent: StepState) -> bool:
    """A settled parent's edge is taken if it completed (or failed and the run goes on) and chose the port, if any."""
    if parent.status is StepStatus.FAILED:
        return port is None
    return parent.status is StepStatus.COMPLETED and (port is None or port in parent.ports)


def _values(step: CompiledStep, values: JSON) -> list[JSON]:
    if not isinstance(values, list):
        message = f"`for_each` of step '{step.id}' is not a list"
        raise StepError(message, code="for_each_not_a_list", retryable=False)
    if len(values) > MAX_ITEMS:
        message = f"`for_each` of step '{step.id}' has {len(values)} items; {MAX_ITEMS} are the most"
        raise StepError(message, code="too_many_items", retryable=False)
    return values


def _next_items(step: CompiledStep, items: MapState, snapshot: Snapshot, now: datetime) -> Iterator[Decision]:
    room = step.definition.max_parallel - len(items.active)
    index = items.next_index
    while room > 0 and index < len(items.values):
        if index not in items.results:  # else it is carried over from the run that this one repairs
            yield attempt(step, item_path(step.id, index), snapshot, now)
            room -= 1
        index += 1


def _map_ended(step: CompiledStep, items: MapState) -> Decision:
    if items.failure is not None:
        return FailStep(step.id, items.failure, stops_run(step, step.id))
    texts = [items.results[index] or "null" for index in range(len(items.values))]
    if sum(map(len, texts)) > MAX_MAP_OUTPUT:
        message = f"The results of step '{step.id}' are larger than {MAX_MAP_OUTPUT >> 20} MiB together"
        return FailStep(step.id, Failure("output_too_large", message, retryable=False), stops_run(step, step.id))
    text = f"[{','.join(texts)}]"
    return CompleteStep(step.id, Succeeded(decode(text), text))


def _hold(step: CompiledStep, snapshot: Snapshot, now: datetime) -> Hold | None:
    """What keeps the next attempt from starting, and pauses the run."""
    control = snapshot.control
    if step.id in control.breakpoints and step.id not in control.passed:
        return Hold(Pause(PauseReason.BREAKPOINT, f"Before step '{step.id}'", at=step.id))
    if control.steps_left == 0:
        return Hold(Pause(PauseReason.STEPPING, f"Before step '{step.id}'", at=step.id))
    if control.budget is NO_BUDGET and not snapshot.shared_budgets:
        return None
    reached = first_used_up(control.budget, _spent(snapshot, now), snapshot.shared_budgets)
    if reached is None:
        return None
    detail = f"{reached.sentence}, before step '{step.id}'"
    return Hold(Pause(PauseReason.BUDGET_EXCEEDED, detail, at=step.id), reached)


def _spent(snapshot: Snapshot, now: datetime) -> Spent:
    """What the run has used so far; its seconds are those since it began, but for those it was PAUSED."""
    began, used = snapshot.started_at or now, snapshot.usage
    return Spent(
        steps=snapshot.starts,
        seconds=(now - began).total_seconds() - snapshot.control.frozen,
        tokens=used.tokens,
        cost=used.cost,
    )


def bars_others(decision: Decision, snapshot: Snapshot) -> bool:
    """Whether another attempt may follow shows only once this is done: the run is held, or starts are counted."""
    if not isinstance(decision, StartStep):
        return isinstance(decision, Hold)
    if snapshot.control.steps_left is not None or snapshot.control.budget.max_steps is not None:
        return True
    return bool(snapshot.shared_budgets) and any(
        shared.limits.max_steps is not None for shared in snapshot.shared_budgets
    )


def _cache_key(step: CompiledStep, snapshot: Snapshot, path: str, config_text: str) -> str | None:
    """Names a result of this step that may be used again; None if none may."""
    if step.definition.cache is None:
        return None
    key = config_text
    if step.cache_key is not None:
        key = json_text(step.cache_key.evaluate(snapshot.lookup_for(path)), f"The cache key of step '{step.id}'")
    named = "\x00".join([str(snapshot.context["workflow_id"]), step.id, step.definition.type, key])
    return sha256(named.encode()).hexdigest()
