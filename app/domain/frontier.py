"""How far a run has come in the graph of its steps.

Every move of a step brings it up to date, so that planning costs what has changed and not how many steps there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.compiled import CompiledStep, CompiledWorkflow
from app.domain.states import StepStatus
from app.domain.step_state import StepState

_UNDER_WAY = frozenset({StepStatus.RUNNING, StepStatus.WAITING})


@dataclass(slots=True)
class Frontier:
    """`ready` are the PENDING steps whose needs are settled, `under_way` those that are RUNNING or WAITING,
    `waiting` the latter alone.

    All by the number of the step, which is its place in the order of the graph. With a step's needs all its ancestors
    are settled, so that what it may look at changes no more. `left` counts the steps that are not settled yet.
    """

    left: int = 0
    ready: dict[int, CompiledStep] = field(default_factory=dict)
    under_way: dict[int, tuple[CompiledStep, StepState]] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, workflow: CompiledWorkflow, steps: Mapping[str, StepState]) -> "Frontier":
        """The frontier of a run whose steps are in these states."""
        found = cls()
        for step in workflow.steps:
            state = steps[step.id]
            if not state.status.settled:
                found.left += 1
            if state.status in _UNDER_WAY:
                found._goes_on(step, state)
            elif state.status is StepStatus.PENDING and _needs_settled(step, steps):
                found.ready[step.number] = step
        return found

    def startable(self) -> list[CompiledStep]:
        """The ready steps, in the order of the graph."""
        return [self.ready[number] for number in sorted(self.ready)]

    def unsettled(self) -> list[tuple[CompiledStep, StepState]]:
        """The steps under way, in the order of the graph."""
        return [self.under_way[number] for number in sorted(self.under_way)]

    def moved(
        self, workflow: CompiledWorkflow, step: CompiledStep, state: StepState, steps: Mapping[str, StepState]
    ) -> None:
        """A step has got another status."""
        self.ready.pop(step.number, None)
        self.waiting.discard(step.number)
        if state.status in _UNDER_WAY:
            self._goes_on(step, state)
            return
        self.under_way.pop(step.number, None)
        self.left -= 1
        for child in workflow.children[step.id]:
            if steps[child.id].status is StepStatus.PENDING and _needs_settled(child, steps):
                self.ready[child.number] = child

    def _goes_on(self, step: CompiledStep, state: StepState) -> None:
        self.under_way[step.number] = (step, state)
        if state.status is StepStatus.WAITING:
            self.waiting.add(step.number)


def _needs_settled(step: CompiledStep, steps: Mapping[str, StepState]) -> bool:
    return all(steps[edge.parent].status.settled for edge in step.edges)
