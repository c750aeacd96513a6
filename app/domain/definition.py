"""The document users write: a workflow as a graph of steps.

The shape alone is checked here; what the words mean together (names, edges, expressions, step settings) is checked by
`app.domain.validation`, which reports every problem at once.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.domain.durations import Duration

RunIf = Literal["default", "all_succeeded", "any_failed", "all_done"]

STEP_ID_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("only printable characters")
    return text


Title = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]


class Document(BaseModel):
    """Base of everything users write: unknown fields are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class RetryPolicy(Document):
    """When and how often a failed attempt is made again; see `app.domain.retry` for the formula."""

    max_attempts: int = Field(default=3, ge=1, le=100)
    initial_interval: Duration = 1.0
    factor: float = Field(default=2.0, ge=1, le=100, allow_inf_nan=False)
    max_interval: Duration = 60.0
    jitter: Literal["full", "none"] = "full"
    no_retry_on: tuple[str, ...] = ()


class StepDefinition(Document):
    """One node of the graph. `needs` names steps (`qualify`) or a port of one (`route.hot`)."""

    id: str = Field(pattern=STEP_ID_PATTERN, description="Lower-case letters, digits, underscores; unique.")
    name: Title | None = None
    type: str = Field(min_length=1, max_length=64)
    config: dict[str, Any] = Field(default_factory=dict, alias="with", description="Settings of the step's type.")
    needs: tuple[str, ...] = ()
    condition: str | bool | None = Field(default=None, alias="if", description="Runs only if this is true.")
    run_if: RunIf = "default"
    continue_on_error: bool = False
    retry: RetryPolicy | None = None
    timeout: Duration | None = None

    @property
    def title(self) -> str:
        """The name shown to people."""
        return self.name or self.id


class WorkflowDefinition(Document):
    """A workflow. `input` is the JSON Schema of an execution's input; `output` and `risk_score` are expressions."""

    name: Title
    description: str | None = Field(default=None, max_length=4_000)
    input: dict[str, Any] | bool | None = Field(default=None, description="JSON Schema of the input; none: any JSON.")
    deliverable_type: str | None = Field(default=None, max_length=200)
    risk_score: str | float | None = None
    approval_above: float | None = Field(default=None, ge=0, le=1)
    timeout: Duration | None = None
    steps: tuple[StepDefinition, ...] = Field(min_length=1, max_length=500)
    output: Any = Field(default=None, description="Value with expressions; none: the output of the last steps.")


def split_need(need: str) -> tuple[str, str | None]:
    """A need as (step id, port); the port is None for a plain edge."""
    step_id, _, port = need.partition(".")
    return step_id, port or None


def step_ids(steps: Sequence[StepDefinition]) -> list[str]:
    """Ids in document order."""
    return [step.id for step in steps]
