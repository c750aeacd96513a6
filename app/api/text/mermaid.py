"""The graph of an execution as a Mermaid flowchart, coloured by status."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from app.api.text.escaping import label
from app.api.text.steps import StepLine, seconds_between, step_lines, took
from app.domain.jsontext import decode
from app.domain.states import StepStatus
from app.domain.timeline import StepTimes, edge_taken
from app.services.executions import ExecutionDetail

_COLOURS = {
    StepStatus.PENDING: "fill:#f6f8fa,stroke:#8c959f,color:#24292f",
    StepStatus.RUNNING: "fill:#ddf4ff,stroke:#0969da,color:#0a3069",
    StepStatus.WAITING: "fill:#fff8c5,stroke:#9a6700,color:#3b2300",
    StepStatus.COMPLETED: "fill:#dafbe1,stroke:#1a7f37,color:#044317",
    StepStatus.FAILED: "fill:#ffebe9,stroke:#cf222e,color:#660018",
    StepStatus.SKIPPED: "fill:#f6f8fa,stroke:#d0d7de,color:#6e7781,stroke-dasharray:4 3",
    StepStatus.CANCELLED: "fill:#fff1e5,stroke:#bc4c00,color:#471700",
}
_ARROWS = {True: "==>", False: "-.->", None: "-->"}
"""Thick: taken. Dotted: not taken. Thin: not decided yet."""


def mermaid(detail: ExecutionDetail, now: datetime) -> str:
    """Nodes have names of ours, so that no text of a user is read as syntax."""
    return "".join(f"{line}\n" for line in _lines(detail, now))


def _lines(detail: ExecutionDetail, now: datetime) -> Iterator[str]:
    steps = step_lines(detail)
    node = {step.step_id: f"s{index}" for index, step in enumerate(steps, 1)}
    by_id = {step.step_id: step for step in steps}
    yield "flowchart TD"
    for step in steps:
        time = took(seconds_between(step.start, step.end or (now if step.start else None)))
        told = " ".join(part for part in (step.status.value, time) if part)
        title = label(step.step_id) if step.name == step.step_id else f"{label(step.name)}<br/>{label(step.step_id)}"
        yield f'  {node[step.step_id]}["{title}<br/>{told}"]:::{step.status.value.lower()}'
    for edge in _edges(detail):
        parent, child, port = edge["from"], edge["to"], edge["port"]
        if parent in node and child in node:
            arrow = _ARROWS[_taken(port, by_id[parent])]
            text = "" if port is None else f'|"{label(port)}"|'
            yield f"  {node[parent]} {arrow}{text} {node[child]}"
    for status in dict.fromkeys(step.status for step in steps):
        yield f"  classDef {status.value.lower()} {_COLOURS[status]}"


def _taken(port: str | None, parent: StepLine) -> bool | None:
    return edge_taken(port, StepTimes(parent.step_id, parent.status, ports=parent.ports))


def _edges(detail: ExecutionDetail) -> list[Any]:
    text = detail.row["execution_graph"] if detail.workflow is None else detail.workflow.graph_text
    shape: Any = decode(text)
    edges: list[Any] = shape.get("edges", [])
    return edges
