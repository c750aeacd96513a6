"""What a retry or replay takes over: nothing that is to be done again, and nothing is done or paid for twice."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.carry import EarlierStep, Redo, carried, done_anew, split_item
from app.domain.compiled import CompiledWorkflow
from tests.unit.runs import compiled


def line(*ids: str, **more: dict) -> CompiledWorkflow:
    """Steps one after the other."""
    needs = {after: [before] for before, after in pairwise(ids)}
    return compiled(*({"id": step_id, "needs": needs.get(step_id, []), **more.get(step_id, {})} for step_id in ids))


def ended(workflow: CompiledWorkflow, statuses: dict[str, str], **reasons: str) -> list[EarlierStep]:
    return [
        EarlierStep(path, workflow.step(path).definition.type, status, reasons.get(path))
        for path, status in statuses.items()
    ]


DONE, FAILED, SKIPPED, CANCELLED = "COMPLETED", "FAILED", "SKIPPED", "CANCELLED"


def test_a_retry_takes_over_what_completed_before_the_failure():
    workflow = line("a", "b", "c")
    old = ended(workflow, {"a": DONE, "b": FAILED, "c": SKIPPED}, c="execution_failed")
    assert carried(workflow, old, Redo()) == ["a"]


def test_a_branch_that_the_failure_did_not_touch_is_taken_over_whole():
    workflow = compiled({"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "c", "needs": ["a"]})
    old = ended(workflow, {"a": DONE, "b": DONE, "c": FAILED})
    assert carried(workflow, old, Redo()) == ["a", "b"]


def test_a_step_that_has_no_record_or_was_cut_off_is_done_with_all_behind_it():
    workflow = line("a", "b", "c")
    assert carried(workflow, ended(workflow, {"a": DONE, "c": DONE}), Redo()) == ["a"]
    old = ended(workflow, {"a": SKIPPED, "b": DONE}, a="execution_cancelled")
    assert carried(workflow, old, Redo()) == []
    old = ended(workflow, {"a": SKIPPED, "b": DONE}, a="not_selected")
    assert carried(workflow, old, Redo()) == []


def test_a_step_that_the_graph_skipped_stays_skipped_while_nothing_before_it_changes():
    workflow = line("a", "b", "c")
    old = ended(workflow, {"a": DONE, "b": SKIPPED, "c": FAILED}, b="condition_false")
    assert carried(workflow, old, Redo()) == ["a", "b"]
    assert carried(workflow, old, Redo(from_step="a")) == []


def test_from_a_step_on_that_step_and_all_behind_it_are_done_again():
    workflow = line("a", "b", "c")
    old = ended(workflow, dict.fromkeys("abc", DONE))
    assert carried(workflow, old, Redo(from_step="b")) == ["a"]
    assert carried(workflow, old, Redo(from_step="c")) == ["a", "b"]
    assert carried(workflow, old, Redo(from_start=True)) == []


def test_what_must_happen_once_and_did_is_reused_unless_it_is_asked_for():
    workflow = line("a", "charge", "c", charge={"type": "pay"})
    old = ended(workflow, dict.fromkeys(("a", "charge", "c"), DONE))
    assert carried(workflow, old, Redo(from_step="a")) == ["charge"]
    assert carried(workflow, old, Redo(from_start=True)) == ["charge"]
    assert carried(workflow, old, Redo(from_step="a", once=True)) == []
    assert carried(workflow, old, Redo(from_step="charge")) == ["a"], "naming it asks for it"


def test_what_must_happen_once_but_failed_is_done():
    workflow = line("a", "charge", charge={"type": "pay"})
    assert carried(workflow, ended(workflow, {"a": DONE, "charge": FAILED}), Redo()) == ["a"]
    old = ended(workflow, {"a": FAILED, "charge": SKIPPED}, charge="not_taken")
    assert carried(workflow, old, Redo()) == [], "skipped is not done"


def test_an_error_handler_answers_the_failure_anew():
    workflow = line("a", "alarm", alarm={"type": "pay", "run_if": "any_failed"})
    assert carried(workflow, ended(workflow, {"a": FAILED, "alarm": DONE}), Redo()) == []
    finally_too = line("a", "release", release={"type": "pay", "run_if": "all_done"})
    assert carried(finally_too, ended(finally_too, {"a": FAILED, "release": DONE}), Redo()) == []
    assert carried(finally_too, ended(finally_too, {"a": DONE, "release": FAILED}), Redo()) == ["a"]


def test_what_another_step_has_undone_is_done_again_and_everything_behind_it():
    undo = {"type": "pay", "run_if": "any_failed", "undoes": ["charge"]}
    workflow = line("charge", "note", "ship", "refund", charge={"type": "pay"}, refund=undo)
    undone = ended(workflow, {"charge": DONE, "note": DONE, "ship": FAILED, "refund": DONE})
    assert carried(workflow, undone, Redo()) == []
    assert done_anew(workflow, undone, Redo(), []) == ["charge"], "its requests are new ones"
    not_undone = ended(workflow, {"charge": DONE, "note": DONE, "ship": FAILED, "refund": FAILED})
    assert carried(workflow, not_undone, Redo()) == ["charge", "note"]
    assert done_anew(workflow, not_undone, Redo(), ["charge", "note"]) == []


def test_what_is_asked_for_once_more_is_done_anew_and_what_is_only_redone_is_not():
    workflow = line("a", "charge", charge={"type": "pay"})
    old = ended(workflow, {"a": DONE, "charge": DONE})
    for redo, anew in ((Redo(from_step="charge"), []), (Redo(from_step="charge", once=True), ["charge"])):
        assert done_anew(workflow, old, redo, carried(workflow, old, redo)) == anew


def test_a_failure_that_did_not_stop_the_run_is_tried_again():
    workflow = line("a", "b", "c", a={"continue_on_error": True}, b={"run_if": "all_done"})
    old = ended(workflow, {"a": FAILED, "b": DONE, "c": DONE})
    assert carried(workflow, old, Redo(from_step="c")) == []


def test_another_version_takes_over_only_steps_that_are_still_the_same():
    old = ended(line("a", "b", "c"), dict.fromkeys("abc", DONE))
    assert carried(line("a", "c"), old, Redo(from_step="c")) == ["a"]
    changed = line("a", "b", "c", b={"type": "switch", "with": {"cases": {}}})
    assert carried(changed, old, Redo(from_step="c")) == ["a"]
    inserted = line("a", "x", "b", "c")
    assert carried(inserted, old, Redo(from_step="c")) == ["a"], "what is behind a new step is done again"


def test_what_was_approved_is_approved_again_when_it_is_another_thing():
    workflow = line("a", "ask", "pay", ask={"type": "approval"})
    old = ended(workflow, {"a": DONE, "ask": DONE, "pay": DONE})
    assert carried(workflow, old, Redo(from_step="pay")) == ["a", "ask"]
    assert carried(workflow, old, Redo(from_step="pay", approvals=True)) == ["a"]


MAP = {"for_each": "input"}


def mapped(status: str, **items: str) -> dict[str, str]:
    return {"a": DONE, "m": status} | {f"m[{name[1:]}]": found for name, found in items.items()}


def test_the_items_of_a_failed_map_that_completed_are_not_paid_again():
    workflow = line("a", "m", "c", m=MAP)
    old = ended(workflow, mapped(FAILED, i0=DONE, i1=FAILED, i2=DONE))
    assert carried(workflow, old, Redo()) == ["a", "m[0]", "m[2]"]
    assert carried(workflow, old, Redo(from_step="m")) == ["a"], "from the map on is all of it"
    assert carried(workflow, old, Redo(from_step="a")) == [], "the list may be another one"


def test_one_item_is_done_again_by_its_path():
    workflow = line("a", "m", "c", m=MAP)
    old = ended(workflow, mapped(DONE, i0=DONE, i1=DONE, i2=FAILED) | {"c": DONE})
    assert carried(workflow, old, Redo(from_step="m[1]")) == ["a", "m[0]"]


def test_of_a_map_that_goes_on_without_failed_items_just_the_one_named_is_done_again():
    workflow = line("a", "m", "c", m=MAP | {"on_item_error": "continue"})
    old = ended(workflow, mapped(DONE, i0=FAILED, i1=FAILED, i2=DONE) | {"c": DONE})
    assert carried(workflow, old, Redo(from_step="m[1]")) == ["a", "m[0]", "m[2]"]
    assert carried(workflow, old, Redo(from_step="m")) == ["a"]
    assert carried(workflow, old, Redo(from_start=True)) == []


def test_a_completed_map_is_taken_over_with_its_items_so_that_one_can_be_retried_later():
    workflow = line("a", "m", "c", m=MAP)
    old = ended(workflow, mapped(DONE, i0=DONE, i1=DONE) | {"c": FAILED})
    assert carried(workflow, old, Redo()) == ["a", "m", "m[0]", "m[1]"]


def test_items_that_must_happen_once_and_did_are_reused_even_if_the_list_is_made_anew():
    workflow = line("a", "m", m=MAP | {"type": "pay"})
    old = ended(workflow, mapped(FAILED, i0=DONE, i1=FAILED))
    assert carried(workflow, old, Redo(from_step="a")) == ["m[0]"]
    assert carried(workflow, old, Redo(from_step="a", once=True)) == []


@pytest.mark.parametrize(
    ("path", "parts"), [("a", ("a", None)), ("m[12]", ("m", 12)), ("m[01]", ("m[01]", None)), ("m[]", ("m[]", None))]
)
def test_paths_of_items(path, parts):
    assert split_item(path) == parts


@st.composite
def histories(draw: st.DrawFn) -> tuple[CompiledWorkflow, list[EarlierStep], Redo]:
    """Any graph of up to eight steps, any ends of them, any wish."""
    ids = [f"s{number}" for number in range(draw(st.integers(1, 8)))]
    workflow = compiled(
        *(
            {
                "id": step_id,
                "type": draw(st.sampled_from(["work", "pay"])),
                "needs": sorted(draw(st.sets(st.sampled_from(ids[:index])))) if index else [],
            }
            for index, step_id in enumerate(ids)
        )
    )
    reason = st.sampled_from(["condition_false", "execution_failed", "not_taken", "not_selected"])
    statuses = {step_id: draw(st.sampled_from([DONE, FAILED, SKIPPED, CANCELLED, None])) for step_id in ids}
    old = [
        EarlierStep(step_id, workflow.by_id[step_id].definition.type, status, draw(reason))
        for step_id, status in statuses.items()
        if status is not None
    ]
    redo = Redo(draw(st.sampled_from([None, *ids])), once=draw(st.booleans()))
    return workflow, old, redo


@given(histories())
def test_nothing_is_carried_behind_what_is_done_again_but_what_must_happen_once(history):
    workflow, old, redo = history
    paths = carried(workflow, old, redo)
    rows = {row.path: row for row in old}
    taken = set(paths)
    assert len(taken) == len(paths)
    assert redo.from_step not in taken
    for path in taken:
        step = workflow.by_id[path]
        assert rows[path].status in {DONE, SKIPPED}
        if not step.upstream <= taken:
            assert (rows[path].status, step.definition.type, redo.once) == (DONE, "pay", False)
    for row in old:
        if row.status == DONE and row.path != redo.from_step and workflow.by_id[row.path].upstream <= taken:
            assert row.path in taken, "what need not be done again is not"
