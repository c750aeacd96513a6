"""The document users write: a workflow as a graph of steps.

The shape alone is checked here; what the words mean together (names, edges, expressions, step settings) is checked by
`app.domain.validation`, which reports every problem at once.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictFloat, StrictInt
from pydantic_core import PydanticCustomError

from app.domain.durations import Duration, Span
from app.domain.expressions import is_template

RunIf = Literal["default", "all_succeeded", "any_failed", "all_done"]

STEP_ID_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"

RESERVED_WORDS = frozenset(
    {"as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop"}
    | {"namespace", "null", "package", "return", "true", "var", "void", "while"}
)
"""Words of CEL, which expressions could not use as the name of a step."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise PydanticCustomError("invalid_character", "only printable characters, in one line")
    return text


def _prose(text: str) -> str:
    if not text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        raise PydanticCustomError("invalid_character", "only printable characters and line breaks")
    return text


def _not_reserved(step_id: str) -> str:
    if step_id in RESERVED_WORDS:
        raise PydanticCustomError("reserved_word", f"'{step_id}' is a word of expressions and cannot name a step")
    return step_id


def _condition(value: object) -> object:
    if value is None or isinstance(value, str | bool):
        return value
    raise ValueError("a condition is an expression, true or false")


def _schema(value: object) -> object:
    if value is None or isinstance(value, dict | bool):
        return value
    raise ValueError("a JSON Schema is an object, true or false")


def _risk(value: object) -> object:
    if value is None or is_template(value):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("a risk score is a number from 0 to 1, or text with a `${{ }}` that gives one")
    return value


Line = Annotated[str, AfterValidator(_printable)]
Title = Annotated[Line, Field(min_length=1, max_length=200)]


class Document(BaseModel):
    """Base of everything users write: unknown fields are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RetryPolicy(Document):
    """When and how often a failed attempt is made again; see `app.domain.retry` for the formula."""

    max_attempts: int = Field(default=3, ge=1, le=100)
    initial_interval: Span = 1.0
    factor: float = Field(default=2.0, ge=1, le=100, allow_inf_nan=False)
    max_interval: Span = 60.0
    jitter: Literal["full", "none"] = "full"
    no_retry_on: tuple[str, ...] = ()


class RepeatPolicy(Document):
    """Run a step again until a condition on its `output` is true, at most `max` times, `interval` apart."""

    until: Annotated[str | bool, BeforeValidator(_condition)]
    max: int = Field(default=100, ge=1, le=10_000)
    interval: Duration = 0.0
    on_exhausted: Literal["fail", "continue"] = "fail"


class CachePolicy(Document):
    """Reuse an earlier result of this step for `ttl`; the key is the resolved `with` unless given."""

    key: Any = None
    ttl: Span


class Budget(Document):
    """What may be used before a run pauses. `max_cost` in US dollars; `max_steps` counts started attempts."""

    max_cost: StrictFloat | None = Field(default=None, ge=0, le=1e12, allow_inf_nan=False)
    max_tokens: StrictInt | None = Field(default=None, ge=0, le=10**15)
    max_steps: StrictInt | None = Field(default=None, ge=1, le=10**15)
    max_duration: Span | None = None


class Concurrency(Document):
    """At most `limit` runs at once of this workflow, or of those with the same `key`; what happens beyond it."""

    limit: int = Field(ge=1, le=100_000)
    key: str | None = None
    on_limit: Literal["queue", "skip", "cancel_oldest", "cancel_newest"] = "queue"


class RateLimit(Document):
    """At most `limit` runs begin within any span of `per`, of this workflow or of those with the same `key`."""

    limit: int = Field(ge=1, le=1_000_000)
    per: Span
    key: str | None = None


class Deciders(Document):
    """Who may decide: these users or who has one of these roles; neither: everybody with the permission."""

    users: tuple[str, ...] = Field(default=(), max_length=100)
    roles: tuple[Literal["owner", "admin", "member", "viewer"], ...] = ()


class ApprovalRule(Document):
    """How a run is approved. Who started it does not decide on it, unless `self_approval` says so."""

    deciders: Deciders = Deciders()
    quorum: int = Field(default=1, ge=1, le=100, description="Approvals needed; one rejection rejects.")
    deadline: Span | None = None
    on_deadline: Literal["fail", "approve", "reject"] = "fail"
    self_approval: bool = False


class StepDefinition(Document):
    """One node of the graph. `needs` names steps (`qualify`) or a port of one (`route.hot`)."""

    id: Annotated[str, AfterValidator(_not_reserved)] = Field(
        pattern=STEP_ID_PATTERN, description="Lower-case letters, digits, underscores; unique."
    )
    name: Title | None = None
    type: str = Field(min_length=1, max_length=64)
    config: dict[str, Any] = Field(default_factory=dict, alias="with", description="Settings of the step's type.")
    needs: tuple[str, ...] = ()
    condition: Annotated[str | bool | None, BeforeValidator(_condition)] = Field(
        default=None, alias="if", description="Runs only if this is true."
    )
    run_if: RunIf = "default"
    continue_on_error: bool = False
    undoes: tuple[str, ...] = Field(
        default=(), description="Steps before this one whose effect it takes back: a retry then does those again."
    )
    retry: RetryPolicy | None = None
    timeout: Span | None = None
    for_each: str | tuple[Any, ...] | None = Field(
        default=None, description="A list, by an expression: the step runs once for each `item`."
    )
    max_parallel: int = Field(default=10, ge=1, le=1_000, description="Items that run at once.")
    on_item_error: Literal["fail", "continue"] = Field(
        default="fail", description="`continue` leaves null in place of a failed item."
    )
    repeat: RepeatPolicy | None = None
    cache: CachePolicy | None = None

    @property
    def title(self) -> str:
        """The name shown to people."""
        return self.name or self.id


class WorkflowDefinition(Document):
    """A workflow. `input` is the JSON Schema of an execution's input; `output` and `risk_score` are expressions."""

    name: Title
    description: Annotated[str, AfterValidator(_prose)] | None = Field(default=None, max_length=4_000)
    input: Annotated[dict[str, Any] | bool | None, BeforeValidator(_schema)] = Field(
        default=None, description="JSON Schema of the input; none: any JSON."
    )
    deliverable_type: Line | None = Field(default=None, max_length=200)
    risk_score: Annotated[str | float | None, BeforeValidator(_risk)] = None
    approval_above: float | None = Field(default=None, ge=0, le=1)
    approval: ApprovalRule | None = Field(default=None, description="Who approves a run above `approval_above`.")
    timeout: Span | None = None
    concurrency: Concurrency | None = None
    rate_limit: RateLimit | None = None
    queue_ttl: Span | None = Field(default=None, description="A run that has not begun by then fails.")
    budget: Budget | None = None
    on_error: Line | None = Field(default=None, min_length=1, max_length=64, description="Workflow run on failure.")
    steps: tuple[StepDefinition, ...] = Field(min_length=1, max_length=500)
    output: Any = Field(default=None, description="Value with expressions; none: the output of the last steps.")


def split_need(need: str) -> tuple[str, str | None]:
    """A need as (step id, port); the port is None for a plain edge."""
    step_id, _, port = need.partition(".")
    return step_id, port or None
