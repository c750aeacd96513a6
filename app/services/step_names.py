"""Options of a run that name steps: each name must be one of the version that is run."""

from collections.abc import Iterable, Mapping
from typing import Any

from app.domain.carry import is_approval
from app.domain.compiled import CompiledWorkflow
from app.domain.errors import Problem
from app.domain.expressions import escape


def option_problems(workflow: CompiledWorkflow, control: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the steps that the options of a start name."""
    problems = unknown_steps(workflow, "/breakpoints", control.get("breakpoints", ()))
    problems += unknown_outputs(workflow, "/pins", control.get("pins", ()))
    only = control.get("only")
    if only is None:
        return problems + _pinned_approvals(workflow, control.get("pins", ()))
    return problems + _unknown(workflow, only, "/version")


def unknown_steps(workflow: CompiledWorkflow, pointer: str, names: Iterable[str]) -> list[Problem]:
    """The names of a list that no step of the workflow has."""
    return [problem for index, name in enumerate(names) for problem in _unknown(workflow, name, f"{pointer}/{index}")]


def unknown_outputs(workflow: CompiledWorkflow, pointer: str, names: Iterable[str]) -> list[Problem]:
    """The names of an object of outputs that no step of the workflow has."""
    return [problem for name in names for problem in _unknown(workflow, name, f"{pointer}/{escape(name)}")]


def _unknown(workflow: CompiledWorkflow, name: str, pointer: str) -> list[Problem]:
    if name in workflow.by_id:
        return []
    return [Problem("unknown_step", "The workflow has no such step in the version that is run", pointer)]


def _pinned_approvals(workflow: CompiledWorkflow, names: Iterable[str]) -> list[Problem]:
    """Who could pin an approval could approve his own run."""
    detail = "People decide on an approval: it cannot be pinned"
    asked = (name for name in names if name in workflow.by_id and is_approval(workflow.by_id[name]))
    return [Problem("invalid_value", detail, f"/pins/{name}") for name in asked]
