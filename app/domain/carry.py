"""What a retry or a replay takes over from the run before it, so that nothing is done or paid for twice.

A step is carried when it completed, or was skipped by the graph, and nothing upstream of it is done again. What is done
again: the step that was named, or (none named) whatever did not end well; what the version now run has no such step
for; and everything downstream of those. Of a step with `for_each` of which one item was named, that item, and of the
others what did not end well, unless the step goes on without those that fail. A step that must happen once and did is
carried all the same, unless it is asked for again, or another one that completed says that it `undoes` it. A handler or
a finally (`run_if: any_failed`, `all_done`) is not: it answers what came before it, which is another thing now.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from app.domain.compiled import CompiledStep, CompiledWorkflow
from app.domain.states import StepStatus
from app.domain.step_state import CUT_OFF_REASONS
from app.domain.steps import Effect

NOT_SELECTED = "not_selected"
"""Why a step was skipped in a run of one step alone."""

APPROVAL = "approval"
"""The type of steps that people decide on."""

_ITEM = re.compile(r"(?P<step>[^\[]+)\[(?P<index>0|[1-9][0-9]{0,8})\]")


@dataclass(frozen=True, slots=True)
class EarlierStep:
    """A step, or one item (`map[3]`), as the earlier run left it."""

    path: str
    type: str
    status: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Redo:
    """What is to be done again: from a step (`qualify`) or of one item (`map[3]`) on, or from the start of the run.

    With neither, whatever did not end well. `once`: also steps downstream that must happen once and did. `approvals`:
    also what people have approved, as it is not the same any more.
    """

    from_step: str | None = None
    from_start: bool = False
    once: bool = False
    approvals: bool = False


def carried(workflow: CompiledWorkflow, earlier: Iterable[EarlierStep], redo: Redo) -> list[str]:
    """The paths of the rows to take over into a run of `workflow`, in topological order, items behind their step."""
    steps: dict[str, EarlierStep] = {}
    items: dict[str, list[str]] = {}
    named, item = split_item(redo.from_step) if redo.from_step is not None else (None, None)
    for old in earlier:
        name, index = split_item(old.path)
        if index is None:
            steps[name] = old
        elif _completed(old) or (name == named and item is not None and _given_up(workflow.by_id[name], old)):
            items.setdefault(name, []).append(old.path)
    undone = _undone(workflow, steps)
    redone: set[str] = set()
    paths: list[str] = []
    for step in workflow.steps:
        row = steps.get(step.id)
        moved = redo.from_start or not redone.isdisjoint(step.upstream)
        spared = _spared(step) and not redo.once
        wanted = step.id == named or step.id in undone or (redo.approvals and is_approval(step))
        if not wanted and _settled_by_graph(step, row) and (not moved or (spared and _completed(row))):
            paths.append(step.id)
        else:
            redone.add(step.id)
        whole = step.id == named and item is None
        if _maps_alike(step, row) and not whole and (not moved or spared):
            paths += [path for path in items.get(step.id, ()) if path != redo.from_step]
    return paths


def done_anew(
    workflow: CompiledWorkflow, earlier: Iterable[EarlierStep], redo: Redo, taken: Collection[str]
) -> list[str]:
    """The steps that had completed and are done again on purpose: their effects are to happen again, as new ones.

    `taken` is what `carried` answers. Without that purpose a repeated request must be known as the same.
    """
    steps = {old.path: old for old in earlier}
    undone = _undone(workflow, steps)
    again = (step.id for step in workflow.steps if _completed(steps.get(step.id)) and step.id not in taken)
    return [name for name in again if redo.once or name in undone]


def split_item(path: str) -> tuple[str, int | None]:
    """The path of a step or of one item of it as (step id, index); the index is None for the step itself."""
    found = _ITEM.fullmatch(path)
    return (path, None) if found is None else (found["step"], int(found["index"]))


def is_approval(step: CompiledStep) -> bool:
    """Whether people decide on the step."""
    return step.definition.type == APPROVAL


def _undone(workflow: CompiledWorkflow, earlier: Mapping[str, EarlierStep]) -> frozenset[str]:
    done = (step for step in workflow.steps if _completed(earlier.get(step.id)))
    return frozenset(name for step in done for name in step.definition.undoes)


def _spared(step: CompiledStep) -> bool:
    return step.effect is Effect.ONCE and step.run_if not in {"any_failed", "all_done"}


def _maps_alike(step: CompiledStep, row: EarlierStep | None) -> bool:
    return row is not None and row.type == step.definition.type and step.definition.for_each is not None


def _completed(row: EarlierStep | None) -> bool:
    return row is not None and row.status == StepStatus.COMPLETED


def _given_up(step: CompiledStep, item: EarlierStep) -> bool:
    """Whether the step went on with null in place of the item: then only who names the item wants it again."""
    return item.status == StepStatus.FAILED and step.definition.on_item_error == "continue"


def _settled_by_graph(step: CompiledStep, row: EarlierStep | None) -> bool:
    if row is None or row.type != step.definition.type:
        return False
    if row.status == StepStatus.SKIPPED:
        return row.reason not in CUT_OFF_REASONS and row.reason != NOT_SELECTED
    return row.status == StepStatus.COMPLETED
