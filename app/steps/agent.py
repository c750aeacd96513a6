"""The `agent` step: asks a language model, streams its words and keeps what they cost.

pydantic-ai is imported when the first model is needed, not before: it is heavy, and many deployments have no agents.
"""

import asyncio
import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from app.domain.definition import Document
from app.domain.durations import Span
from app.domain.errors import Problem, StepError
from app.domain.expressions import is_template
from app.domain.schemas import UnsupportedSchema, compile_schema
from app.domain.secrets import SecretReference
from app.domain.steps import Done, Effect, StepSpec
from app.engine.step_types import StepContext
from app.settings import Settings
from app.steps.base import THREE_ATTEMPTS, TypedStep, has_template, invalid_config, message_text

STAND_IN = "stand-in"
STAND_IN_LABEL = "stand-in (local, no AI)"

OPENAI_FAMILY = frozenset({"openai", "openai-chat", "openai-responses"})


class SamplingSettings(Document):
    """Fine tuning that most models know; one that a model does not know is ignored by it."""

    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    seed: int | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    stop_sequences: list[str] | None = Field(default=None, max_length=16)
    thinking: bool | Literal["minimal", "low", "medium", "high"] | None = None


class AgentConfig(Document):
    model: str = Field(
        min_length=1,
        max_length=200,
        description='`provider:model`, for example "openai:gpt-5.2"; "stand-in" is a local text generator without AI.',
    )
    prompt: Any = Field(description="What to ask; values other than text are written as JSON.")
    instructions: str | None = Field(default=None, description="How to behave: the system prompt.")
    output_schema: dict[str, Any] | None = Field(
        default=None, description="JSON Schema of an object; the answer is then `data` of that shape."
    )
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    api_key: SecretReference | None = Field(
        default=None, description="The provider's key, from a secret; else the deployment's."
    )
    timeout: Span = Field(default=120.0, description="For one answer of the model.")
    settings: SamplingSettings = SamplingSettings()


class AgentStep(TypedStep[AgentConfig]):
    """Asks a model of any provider that pydantic-ai supports."""

    config_model = AgentConfig
    spec = StepSpec(
        type="agent",
        title="AI agent",
        description=(
            "Asks a language model and streams its answer. With `output_schema` the answer is an object of that "
            'shape in `data`. The model "stand-in" is no AI: a deterministic local text generator for demos and tests.'
        ),
        category="ai",
        icon="sparkles",
        effect=Effect.IDEMPOTENT,
        config_schema=AgentConfig.model_json_schema(),
        output_schema={
            "type": "object",
            "properties": {
                "text": {"type": "string", "description": "The answer; with `output_schema` its JSON."},
                "data": {"type": ["object", "null"], "description": "The answer as an object, with `output_schema`."},
            },
            "required": ["text", "data"],
        },
        retry=THREE_ATTEMPTS,
        timeout=600.0,
        function_from="model",
        secrets_in=frozenset({"api_key"}),
    )

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: Any = None

    def check(self, config: Mapping[str, Any]) -> list[Problem]:
        problems = super().check(config)
        model, schema = config.get("model"), config.get("output_schema")
        if isinstance(model, str) and not is_template(model):
            problems += [problem for problem in self._model_problems(model) if problem.code == "unknown_model"]
        if isinstance(schema, Mapping) and not has_template(schema) and (reason := _schema_reason(schema)):
            problems.append(Problem("invalid_schema", reason, "/output_schema"))
        return problems

    def missing_setup(self, config: Mapping[str, Any]) -> list[Problem]:
        model = config.get("model")
        if not isinstance(model, str) or is_template(model) or config.get("api_key") is not None:
            return []
        return [problem for problem in self._model_problems(model) if problem.code != "unknown_model"]

    async def perform(self, context: StepContext, config: AgentConfig) -> Done:
        if config.output_schema is not None and (reason := _schema_reason(config.output_schema)):
            raise invalid_config(f"/output_schema: {reason}")
        if self._models is None:
            # Off the loop: the first import takes about a second.
            await asyncio.to_thread(importlib.import_module, "app.steps.models")
        answer = await self._client().ask(config, message_text(config.prompt), context)
        tokens = {"input": answer.input_tokens, "output": answer.output_tokens}
        return Done(
            output={"text": answer.text, "data": answer.data},
            agent_result={
                "model": STAND_IN_LABEL if config.model == STAND_IN else config.model,
                "text": answer.text,
                "tokens": {**tokens},
                "cost": answer.cost,
            },
        )

    async def aclose(self) -> None:
        """Close the connections to the models."""
        if self._models is not None:
            models, self._models = self._models, None
            await models.aclose()

    def _client(self) -> Any:
        if self._models is None:
            self._models = importlib.import_module("app.steps.models").Models(self._settings)
        return self._models

    def _model_problems(self, model: str) -> list[Problem]:
        provider, _, name = model.partition(":")
        if model == STAND_IN:
            return []
        if not name:
            detail = f"'{model}' is not a model: write `provider:model`, such as `openai:gpt-5.2`, or `{STAND_IN}`"
            return [Problem("unknown_model", detail, "/model")]
        # The usual case is answered without the heavy import.
        if provider in OPENAI_FAMILY and self._openai_is_ready():
            return []
        try:
            self._client().model(model)
        except StepError as error:
            return [Problem(error.error_code, error.detail, "/model")]
        return []

    def _openai_is_ready(self) -> bool:
        settings = self._settings
        configured = settings.openai_base_url is not None or settings.openai_api_key is not None
        return configured and importlib.util.find_spec("openai") is not None


def _schema_reason(schema: Mapping[str, Any]) -> str | None:
    if schema.get("type") != "object":
        return "The schema of an answer describes an object: `type: object`"
    try:
        compile_schema(dict(schema))
    except UnsupportedSchema as error:
        return f"This is not a JSON Schema that can be used: {error}"
    return None
