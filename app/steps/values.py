"""Steps that build a value or say one."""

from typing import Any, Literal

from pydantic import Field, RootModel

from app.domain.definition import Document
from app.domain.steps import Done, Effect, StepSpec
from app.engine.step_types import StepContext
from app.steps.base import ONE_ATTEMPT, THREE_ATTEMPTS, PureStep, TypedStep, message_text


class SetConfig(RootModel[dict[str, Any]]):
    """Any object: its keys are yours, its values may be expressions."""


class SetStep(PureStep[SetConfig]):
    """Builds an object by expressions."""

    config_model = SetConfig
    spec = StepSpec(
        type="set",
        title="Set values",
        description="Builds an object by expressions: the output is `with`, resolved.",
        category="data",
        icon="braces",
        effect=Effect.PURE,
        config_schema=SetConfig.model_json_schema(),
        output_schema={"type": "object"},
        retry=ONE_ATTEMPT,
        timeout=30.0,
    )

    def outcome(self, config: SetConfig) -> Done:
        return Done(config.root)


class LogConfig(Document):
    message: Any = Field(description="What to say; values other than text are written as JSON.")
    level: Literal["debug", "info", "warning", "error"] = "info"


class LogStep(TypedStep[LogConfig]):
    """Says something in the run's log."""

    config_model = LogConfig
    spec = StepSpec(
        type="log",
        title="Log",
        description="Writes a line into the run's log and event stream.",
        category="data",
        icon="scroll-text",
        effect=Effect.IDEMPOTENT,
        config_schema=LogConfig.model_json_schema(),
        output_schema={
            "type": "object",
            "properties": {"message": {"type": "string"}, "level": {"type": "string"}},
            "required": ["message", "level"],
        },
        retry=THREE_ATTEMPTS,
        timeout=30.0,
        immediate=True,
    )

    async def perform(self, context: StepContext, config: LogConfig) -> Done:
        message = message_text(config.message)
        context.log(message, config.level)
        return Done({"message": message, "level": config.level})
