"""Random workflows, and what their steps do."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from app.domain.compiled import CompiledWorkflow
from app.domain.decisions import StartStep
from app.domain.definition import RetryPolicy
from app.domain.errors import Failure, Problem
from app.domain.step_state import Failed, Outcome, Parked, Slept, Succeeded
from app.domain.steps import Effect, StepSpec, Usage
from app.domain.validation import check_definition
from app.domain.waits import ApprovalWait, ChildWait, SignalWait

PORTS = ("left", "right")
SIGNALS = ("alpha", "beta")
EFFECTS = {
    "compute": Effect.PURE,
    "switch": Effect.PURE,
    "pause": Effect.PURE,
    "refuse": Effect.PURE,
    "listen": Effect.PURE,
    "ask": Effect.PURE,
    "call": Effect.IDEMPOTENT,
    "route": Effect.IDEMPOTENT,
    "child": Effect.IDEMPOTENT,
    "pay": Effect.ONCE,
}
KINDS = ["compute", "switch", "pause", "refuse", "listen", "listen", "ask", "ask", *["child"] * 3]
KINDS += [*["call"] * 5, *["route"] * 2, *["pay"] * 3]
WAITING_PORTS = {"listen": ("received", "timed_out"), "ask": ("approved", "rejected")}


class Types:
    """Pure step types whose outcome their name tells, and others whose outcome the test decides."""

    def spec(self, step_type: str) -> StepSpec | None:
        return StepSpec(
            type=step_type, title=step_type, description=step_type, category="test", icon="flask",
            effect=EFFECTS[step_type], config_schema={"type": "object"}, output_schema={}, timeout=60,
            retry=RetryPolicy(max_attempts=2), ports_from="cases" if step_type in {"switch", "route"} else None,
            fixed_ports=WAITING_PORTS.get(step_type, ()),
        )  # fmt: skip

    def check(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        return []

    def missing_setup(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        return []


@st.composite
def workflows(draw: st.DrawFn) -> CompiledWorkflow:
    """A valid workflow of one to nine steps; each step's `with` looks at all its ancestors."""
    steps: list[dict[str, Any]] = []
    upstream: dict[str, list[str]] = {}
    for number in range(draw(st.sampled_from([1, 2, 3, 5, 6, 7, 8, 9]))):
        count = min(len(steps), draw(st.sampled_from([0, 0, 1, 1, 2])))
        parents = draw(st.permutations(steps))[:count]
        ancestors = sorted({name for parent in parents for name in [parent["id"], *upstream[parent["id"]]]})
        step = _step(draw, f"s{number}", parents, ancestors)
        upstream[step["id"]] = ancestors
        steps.append(step)
    document: dict[str, Any] = {"name": "Model", "steps": draw(st.permutations(steps))}
    if timeout := draw(st.sampled_from([None, None, None, "20s", "60s"])):
        document["timeout"] = timeout
    if _seldom(draw):
        document["output"] = "${{ input.nothing }}"
    if budget := draw(st.sampled_from([None, None, None, None, {"max_steps": 3}, {"max_cost": 0.5}])):
        document["budget"] = budget
    if draw(st.sampled_from([False, False, True])):
        document |= {"risk_score": 0.9, "approval_above": 0.5, "approval": _rule(draw)}
    checked = check_definition(document, Types())
    assert checked.workflow is not None, checked.problems
    return checked.workflow


@st.composite
def controls(draw: st.DrawFn, workflow: CompiledWorkflow) -> dict[str, Any]:
    """What a start may ask for."""
    ids = [step.id for step in workflow.steps]
    control: dict[str, Any] = {}
    if draw(st.booleans()):
        control["breakpoints"] = draw(st.lists(st.sampled_from(ids), min_size=1, max_size=3, unique=True))
    if draw(st.sampled_from([False, False, False, True])):
        control["pins"] = {draw(st.sampled_from(ids)): draw(st.sampled_from([{"ok": 1}, {"case": "left"}, None]))}
    if _seldom(draw) or _seldom(draw):
        control["only"] = draw(st.sampled_from(ids))
    if budget := draw(st.sampled_from([None, None, None, None, {"max_steps": 4}, {"max_duration": "5s"}])):
        control["budget"] = budget
    return control


def _seldom(draw: st.DrawFn) -> bool:
    return draw(st.sampled_from(range(20))) == 13


def _rule(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "quorum": draw(st.sampled_from([1, 2])),
        "deadline": draw(st.sampled_from(["5s", "40s"])),
        "on_deadline": draw(st.sampled_from(["fail", "approve", "reject"])),
    }


def _step(draw: st.DrawFn, name: str, parents: list[dict[str, Any]], ancestors: list[str]) -> dict[str, Any]:
    kind = draw(st.sampled_from(KINDS))
    step: dict[str, Any] = {
        "id": name,
        "type": kind,
        "needs": [_need(draw, parent) for parent in parents],
        "continue_on_error": draw(st.sampled_from([True, True, False])),
        "with": _config(draw, kind, ancestors),
        "retry": {
            "max_attempts": draw(st.integers(1, 3)),
            "initial_interval": draw(st.sampled_from(["500ms", "5s"])),
            "jitter": draw(st.sampled_from(["none", "full"])),
        },
    }
    match draw(st.sampled_from(["once", "once", "once", "once", "each", "each", "again"])):
        case "each" if kind not in {"switch", "route"}:
            step["for_each"] = draw(st.sampled_from([[], [1], [1, 2, 3], [1, 2, 3, 4, 5], "${{ [1, 2, 3, 4] }}"]))
            step["max_parallel"] = draw(st.integers(1, 3))
            step["on_item_error"] = draw(st.sampled_from(["fail", "continue"]))
        case "again":
            step["repeat"] = _repeat(draw)
    if parents:
        step["run_if"] = draw(
            st.sampled_from(["default", "default", "all_succeeded", "any_failed", "any_failed", "all_done"])
        )
    if _seldom(draw) or _seldom(draw):
        looking = [f"steps.{other}.status == '{status}'" for other in ancestors for status in ("COMPLETED", "FAILED")]
        step["if"] = draw(st.sampled_from([False, "${{ input }}", "${{ input.nothing }}", *looking]))
    return step


def _repeat(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "until": draw(st.sampled_from([False, True, "index >= 1", "index >= 1", "output.ok == 1"])),
        "max": draw(st.integers(1, 3)),
        "interval": draw(st.sampled_from(["0s", "500ms", "5s"])),
        "on_exhausted": draw(st.sampled_from(["fail", "continue"])),
    }


def _config(draw: st.DrawFn, kind: str, ancestors: list[str]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "seen": {other: f"${{{{ steps.{other}.status }}}}" for other in ancestors},
        "outputs": {other: f"${{{{ steps.{other}.output }}}}" for other in ancestors},
    }
    match kind:
        case "switch" | "route":
            config |= {"cases": dict.fromkeys(PORTS, True), "take": draw(st.sampled_from([*PORTS, None]))}
        case "pause":
            config["seconds"] = draw(st.sampled_from([0, 0.5, 30]))
        case "listen":
            config["names"] = draw(st.sampled_from([["alpha"], ["beta"], ["alpha", "beta"]]))
            config["mode"] = draw(st.sampled_from(["any", "all"]))
            config["on_timeout"] = draw(st.sampled_from(["fail", "continue"]))
            config["seconds"] = draw(st.sampled_from([0, 0.5, 10, 100]))
        case "ask":
            config |= {"quorum": draw(st.sampled_from([1, 2])), "seconds": draw(st.sampled_from([0, 5, 100]))}
            config["on_deadline"] = draw(st.sampled_from(["fail", "approve", "reject"]))
            config["on_rejected"] = draw(st.sampled_from(["fail", "continue"]))
    if _seldom(draw):
        config["broken"] = "${{ input.nothing }}"
    return config


def _need(draw: st.DrawFn, parent: dict[str, Any]) -> str:
    ports = PORTS if parent["type"] in {"switch", "route"} else WAITING_PORTS.get(parent["type"], ())
    ported = bool(ports) and "for_each" not in parent and draw(st.booleans())
    return f"{parent['id']}.{draw(st.sampled_from(ports))}" if ported else str(parent["id"])


def pure_outcome(kind: str, start: StartStep, turn: str) -> Outcome:
    """What an attempt of a pure step comes to; `turn` tells its attempts apart."""
    config = start.config
    match kind:
        case "pause":
            return Slept(config["seconds"], {"slept": True}, '{"slept":true}')
        case "refuse":
            return Failed(Failure("refused", "not today"), jitter=0.5)
        case "listen":
            wait = SignalWait(tuple(config["names"]), config["mode"], config["on_timeout"])
            return Parked(wait, config["seconds"])
        case "ask":
            asked = {name: config[name] for name in ("quorum", "on_deadline", "on_rejected")}
            return Parked(ApprovalWait(f"appr_{start.path}_{turn}", "May it?", **asked), config["seconds"])
        case _:
            ports = frozenset({config["take"]} if config.get("take") else ())
            return Succeeded({"ok": 1, "by": start.path}, _said(start.path), ports)


def good(kind: str, path: str) -> Outcome:
    """A success with everything that a record keeps of one."""
    ports = frozenset({kind} & set(PORTS))
    return Succeeded({"ok": 1, "by": path}, _said(path), ports, Usage(tokens=7, cost=0.5), {"said": kind})


def waits_for(child: str) -> Outcome:
    return Parked(ChildWait(child), None)


def _said(path: str) -> str:
    return f'{{"ok":1,"by":"{path}"}}'
