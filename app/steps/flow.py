"""Steps that shape the run itself: where it starts and ends, which way it goes, when it waits, why it fails."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from app.domain.definition import Document
from app.domain.durations import LONGEST, Duration
from app.domain.errors import Problem, StepError
from app.domain.expressions import is_template
from app.domain.steps import Done, Effect, Sleep, StepSpec
from app.engine.step_types import StepContext
from app.steps.base import NAME_PATTERN, ONE_ATTEMPT, PureStep, TypedStep, invalid_config, message_text, pointer

PortName = Annotated[str, Field(pattern=NAME_PATTERN)]


class OutputConfig(Document):
    output: Any = Field(default=None, description="The step's output, by expressions; none: null.")


class StartStep(PureStep[OutputConfig]):
    """Marks where a workflow begins; hands on `output`."""

    config_model = OutputConfig
    spec = StepSpec(
        type="start",
        title="Start",
        description='Where the workflow begins. Its output is `output`, for example "${{ input }}".',
        category="flow",
        icon="play",
        effect=Effect.PURE,
        config_schema=OutputConfig.model_json_schema(),
        output_schema={},
        retry=ONE_ATTEMPT,
        timeout=30.0,
    )

    def outcome(self, config: OutputConfig) -> Done:
        return Done(config.output)


class EndStep(PureStep[OutputConfig]):
    """Marks where a workflow ends; hands on `output`."""

    config_model = OutputConfig
    spec = StepSpec(
        type="end",
        title="End",
        description="Where the workflow ends. Its output is `output`.",
        category="flow",
        icon="flag",
        effect=Effect.PURE,
        config_schema=OutputConfig.model_json_schema(),
        output_schema={},
        retry=ONE_ATTEMPT,
        timeout=30.0,
    )

    def outcome(self, config: OutputConfig) -> Done:
        return Done(config.output)


def _conditions_by_port(schema: dict[str, Any]) -> None:
    schema.pop("patternProperties", None)
    schema["propertyNames"] = {"pattern": NAME_PATTERN}
    schema["additionalProperties"] = {"type": ["boolean", "string"]}


class SwitchConfig(Document):
    cases: dict[PortName, Any] = Field(
        min_length=1,
        json_schema_extra=_conditions_by_port,
        description="Port name → condition. The first true one, in document order, is taken.",
    )
    default: PortName | None = Field(default=None, description="The port taken when no case is true; none: no port.")


class SwitchStep(PureStep[SwitchConfig]):
    """Takes the port of the first case that is true, else the default's, else none."""

    config_model = SwitchConfig
    spec = StepSpec(
        type="switch",
        title="Switch",
        description="Takes one of several ports. Steps behind it name the port: `needs: [route.hot]`.",
        category="flow",
        icon="split",
        effect=Effect.PURE,
        config_schema=SwitchConfig.model_json_schema(),
        output_schema={
            "type": "object",
            "properties": {"case": {"type": ["string", "null"], "description": "The port taken."}},
            "required": ["case"],
        },
        retry=ONE_ATTEMPT,
        timeout=30.0,
        ports_from="cases",
        default_port_from="default",
        port_of=lambda output: output.get("case"),
    )

    def check(self, config: Mapping[str, Any]) -> list[Problem]:
        cases = config.get("cases")
        words = cases.items() if isinstance(cases, Mapping) else ()
        return super().check(config) + [
            Problem("invalid_config", "A case is true, false or an expression", pointer(("cases", name)))
            for name, condition in words
            if isinstance(condition, str) and not is_template(condition)
        ]

    def outcome(self, config: SwitchConfig) -> Done:
        for name, condition in config.cases.items():
            if not isinstance(condition, bool):
                found = "null" if condition is None else type(condition).__name__
                raise invalid_config(f"Case '{name}' of the switch must be true or false, not {found}")
        taken = next((name for name, condition in config.cases.items() if condition), config.default)
        return Done({"case": taken}, ports=frozenset() if taken is None else frozenset({taken}))


def _instant(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("a moment is RFC 3339 text with a time zone, such as '2030-01-31T09:00:00Z'")
    return moment


Instant = Annotated[datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]


class DelayConfig(Document):
    duration: Duration | None = Field(default=None, description="How long to wait, for example `30s` or `1h30m`.")
    until: Instant | None = Field(default=None, description="When to go on; a moment in the past is no wait.")

    @model_validator(mode="before")
    @classmethod
    def _one_of_both(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and sum(value.get(key) is not None for key in ("duration", "until")) != 1:
            raise ValueError("a delay has either `duration` or `until`")
        return value


class DelayStep(TypedStep[DelayConfig]):
    """Waits for a time or until a moment, at most 366 days; nothing is held while it waits."""

    config_model = DelayConfig
    spec = StepSpec(
        type="delay",
        title="Delay",
        description="Waits for a duration or until a moment, also over restarts.",
        category="flow",
        icon="timer",
        effect=Effect.PURE,
        config_schema=DelayConfig.model_json_schema(),
        output_schema={
            "type": "object",
            "properties": {"seconds": {"type": "number", "description": "How long it was to wait."}},
            "required": ["seconds"],
        },
        retry=ONE_ATTEMPT,
        timeout=30.0,
    )

    async def perform(self, context: StepContext, config: DelayConfig) -> Sleep:
        seconds = config.duration or 0.0
        if config.until is not None:
            seconds = max(0.0, (config.until - context.now()).total_seconds())
        if seconds > LONGEST:
            raise invalid_config("A delay is at most 366 days")
        return Sleep(seconds, {"seconds": round(seconds, 3)})


class FailConfig(Document):
    message: Any = Field(description="Why, in words for the person who reads the run.")
    code: str = Field(default="failed_by_step", pattern=NAME_PATTERN, description="The error code of the run.")


class FailStep(PureStep[FailConfig]):
    """Fails, once and for good."""

    config_model = FailConfig
    spec = StepSpec(
        type="fail",
        title="Fail",
        description="Fails the run with a message and a code of your own; it is not retried.",
        category="flow",
        icon="octagon-x",
        effect=Effect.PURE,
        config_schema=FailConfig.model_json_schema(),
        output_schema={},
        retry=ONE_ATTEMPT,
        timeout=30.0,
    )

    def outcome(self, config: FailConfig) -> Done:
        raise StepError(message_text(config.message), code=config.code, retryable=False)
