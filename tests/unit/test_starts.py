"""However many steps could start at once, planning them leaves time for other runs."""

from app.domain.changes import Changes
from app.domain.evolution import evolve
from app.domain.planner import plan
from app.domain.starting import MOST_STARTS
from tests.unit.runs import START, Run


def test_few_starts_are_planned_at_once_and_the_rest_right_after() -> None:
    count = 3 * MOST_STARTS + 1
    run = Run(*({"id": f"s{number}"} for number in range(count)), begin=False)
    run.snapshot.may_run = True
    sizes, changes = [], Changes()
    while decisions := plan(run.workflow, run.snapshot, START):
        sizes.append(len(decisions))
        for decision in decisions:
            evolve(run.workflow, run.snapshot, decision, START, changes)
    assert sizes == [1, MOST_STARTS, MOST_STARTS, MOST_STARTS, 1]
    assert len(changes.starts) == count
