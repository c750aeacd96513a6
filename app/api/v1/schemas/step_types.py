"""Step types on the wire."""

from typing import Any

from pydantic import BaseModel, Field

from app.domain.definition import RetryPolicy
from app.domain.durations import format_duration
from app.domain.steps import Effect, StepSpec


class StepTypeOut(BaseModel):
    """What a definition may use. `config_schema` and `output_schema` are JSON Schemas of `with` and of the output."""

    type: str
    title: str
    description: str
    category: str
    icon: str
    effect: Effect = Field(description="How often the world may see it, when attempts are repeated.")
    config_schema: dict[str, Any]
    output_schema: dict[str, Any]
    retry: RetryPolicy = Field(description="Holds for steps without their own.")
    timeout: str = Field(description="For one attempt, for steps without their own.", examples=["30s"])
    ports_from: str | None = Field(description="The key of `with` whose keys are ports of the step.")
    default_port_from: str | None = Field(description="The key of `with` whose value is a port too.")


class StepTypeList(BaseModel):
    data: list[StepTypeOut]
    next_cursor: None
    has_more: bool


def step_type_view(spec: StepSpec) -> dict[str, Any]:
    """A step type's declaration."""
    return {
        "type": spec.type,
        "title": spec.title,
        "description": spec.description,
        "category": spec.category,
        "icon": spec.icon,
        "effect": spec.effect.value,
        "config_schema": dict(spec.config_schema),
        "output_schema": dict(spec.output_schema),
        "retry": spec.retry.model_dump(mode="json"),
        "timeout": format_duration(spec.timeout),
        "ports_from": spec.ports_from,
        "default_port_from": spec.default_port_from,
    }
