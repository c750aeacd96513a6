"""Language models through pydantic-ai. Imported on first use only."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import httpx2
import pydantic_ai
from pydantic_ai import Agent, ModelRetry, StructuredDict, capture_run_messages, exceptions
from pydantic_ai.messages import (
    AgentStreamEvent,
    ModelMessage,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
)
from pydantic_ai.models import Model, infer_model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers import Provider, infer_provider, infer_provider_class
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.run import AgentRunResult, AgentRunResultEvent
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import UsageLimits

from app.domain.errors import StepError, clean_text
from app.domain.jsontext import JSON, encode
from app.domain.schemas import compile_schema, schema_problems
from app.domain.secrets import OpenedSecret, host_allowed, not_for
from app.engine.step_types import StepContext
from app.settings import Settings
from app.steps.addresses import target_of
from app.steps.agent import OPENAI_FAMILY, STAND_IN, AgentConfig
from app.steps.secret_values import opened_secrets
from app.steps.stand_in import stand_in_model

pydantic_ai.BANNER_ENABLED = False  # the terminal is ours

_OUTPUT_RETRIES = 2
_CONNECT_TIMEOUT = 10.0
_ENVIRONMENT_NAME = re.compile(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`")
_EXTRA = re.compile(r"pydantic-ai-slim\[([a-z0-9-]+)\]")
# These sign in as one person, by files in that person's home: nothing a shared service may use.
_PERSONAL = frozenset({"openai-codex", "openai-chatgpt"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said; `cost` in US dollars, 0.0 when the price is not known."""

    text: str
    data: JSON
    input_tokens: int
    output_tokens: int
    cost: float


class Models:
    """The models of a deployment; providers are made once and share one HTTP client that ignores proxy settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._providers: dict[str, Provider[Any]] = {}
        self._http: httpx2.AsyncClient | None = None

    def model(self, name: str, secret: OpenedSecret | None = None) -> Model:
        """The model of a name such as `openai:gpt-5.2`, with a key of its own or the deployment's.

        Raises StepError that says what is missing, or that the secret is not for the provider.
        """
        if name == STAND_IN:
            return stand_in_model()
        provider, _, model = name.partition(":")
        try:
            provider_of = self._provider if secret is None else partial(self._provider_with, secret)
            if provider == "openai" and self._settings.openai_base_url:
                # Compatible servers have the Chat Completions API; hardly any has the newer one.
                return OpenAIChatModel(model, provider=provider_of(provider))
            return infer_model(name, provider_factory=provider_of)
        except ImportError as error:
            raise _not_installed(name, provider, str(error)) from None
        except exceptions.UserError as error:
            raise _not_configured(name, provider, str(error)) from None

    async def ask(self, config: AgentConfig, prompt: str, context: StepContext) -> Answer:
        """One answer; its pieces and what it consumed are told to `context` as they come. Raises StepError."""
        agent = self._agent(config)
        with capture_run_messages() as messages:
            try:
                async with agent.run_stream_events(
                    prompt,
                    model_settings=_model_settings(config),
                    usage_limits=UsageLimits(request_limit=1 + _OUTPUT_RETRIES),
                ) as events:
                    async for event in events:
                        if isinstance(event, AgentRunResultEvent):
                            return _answer(event.result)
                        if piece := _piece(event):
                            context.token(piece)
            except (exceptions.AgentRunError, exceptions.UserError) as error:
                raise step_error(error, config.model) from None
            finally:
                context.spend(tokens=_tokens(messages), cost=_cost(messages))
        raise StepError(f"The model '{config.model}' ended without an answer", code="model_output_invalid")

    async def aclose(self) -> None:
        """Close the connections."""
        self._providers.clear()
        if self._http is not None:
            http, self._http = self._http, None
            await http.aclose()

    def _agent(self, config: AgentConfig) -> Agent[None, Any]:
        model = self.model(config.model, *opened_secrets(config.api_key))
        if config.output_schema is None:
            return Agent(model, output_type=str, instructions=config.instructions, retries=_OUTPUT_RETRIES)
        validator = compile_schema(config.output_schema)
        shape = StructuredDict(dict(config.output_schema))
        agent: Agent[None, Any] = Agent(
            model, output_type=shape, instructions=config.instructions, retries=_OUTPUT_RETRIES
        )

        @agent.output_validator
        def of_the_schema(data: Any) -> Any:
            wrong = schema_problems(validator, data, "output_schema_mismatch")
            if wrong:
                raise ModelRetry("; ".join(f"{problem.pointer or '/'}: {problem.detail}" for problem in wrong[:10]))
            return data

        return agent

    def _provider(self, name: str) -> Provider[Any]:
        if name not in self._providers:
            self._providers[name] = self._new_provider(name, None)
        return self._providers[name]

    def _provider_with(self, secret: OpenedSecret, name: str) -> Provider[Any]:
        provider = self._new_provider(name, secret.text)
        host, port = target_of(httpx.URL(provider.base_url))
        if not host_allowed(secret.allowed_hosts, host, port):
            message = not_for(secret.name, host, secret.allowed_hosts)
            raise StepError(message, code="secret_host_not_allowed", retryable=False)
        return provider

    def _new_provider(self, name: str, key: str | None) -> Provider[Any]:
        settings = self._settings
        if name in OPENAI_FAMILY:
            if key is None and settings.openai_api_key:
                key = settings.openai_api_key.get_secret_value()
            if settings.openai_base_url:
                return OpenAICompatibleProvider(
                    "openai", base_url=settings.openai_base_url, api_key=key, http_client=self._client()
                )
            return OpenAIProvider(api_key=key, http_client=self._client())
        if name.startswith("gateway/") and key is None:
            return infer_provider(name)
        try:
            kind = infer_provider_class(name)
        except ValueError:
            raise _unknown(f"'{name}' is not a provider of models") from None
        if name in _PERSONAL:
            raise _unknown(f"'{name}' signs in as one person, which a service cannot do; use `openai`")
        takes = inspect.signature(kind.__init__).parameters
        if key is not None and "api_key" not in takes:
            message = f"The provider '{name}' takes no key: leave out `api_key`"
            raise StepError(message, code="invalid_config", retryable=False)
        given = {"api_key": key, "http_client": self._client() if "http_client" in takes else None}
        make: Callable[..., Provider[Any]] = kind
        return make(**{option: value for option, value in given.items() if value is not None})

    def _client(self) -> httpx2.AsyncClient:
        if self._http is None:
            timeout = httpx2.Timeout(600.0, connect=_CONNECT_TIMEOUT)
            self._http = httpx2.AsyncClient(trust_env=False, timeout=timeout, headers={"User-Agent": "stepstream"})
        return self._http


def _model_settings(config: AgentConfig) -> ModelSettings:
    # The engine retries, and writes down each attempt; retries inside the client would hide them.
    settings = ModelSettings(max_retries=0, request_timeout=config.timeout)
    if config.temperature is not None:
        settings["temperature"] = config.temperature
    if config.max_tokens is not None:
        settings["max_tokens"] = config.max_tokens
    settings.update(config.settings.model_dump(exclude_none=True))  # type: ignore[typeddict-item]  # names are the same
    return settings


def _piece(event: AgentStreamEvent) -> str:
    """The words in an event: of the answer's text, or of the JSON of a structured one."""
    match event:
        case PartStartEvent(part=TextPart(content=text)) | PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            return text
        case PartStartEvent(part=ToolCallPart(args=str(text))):
            return text
        case PartDeltaEvent(delta=ToolCallPartDelta(args_delta=str(text))):
            return text
        case _:
            return ""


def _answer(result: AgentRunResult[Any]) -> Answer:
    data: JSON = None if isinstance(result.output, str) else dict(result.output)
    usage = result.usage
    return Answer(
        text=result.output if isinstance(result.output, str) else encode(data),
        data=data,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost=_cost(result.all_messages()),
    )


def _tokens(messages: list[ModelMessage]) -> int:
    """Of all answers, also those that were not good enough."""
    used = [message.usage for message in messages if isinstance(message, ModelResponse)]
    return sum(usage.input_tokens + usage.output_tokens for usage in used)


def _cost(messages: list[ModelMessage]) -> float:
    total = 0.0
    for message in messages:
        if isinstance(message, ModelResponse) and message.model_name:
            try:
                total += float(message.cost().total_price)
            except (LookupError, ValueError):
                continue
    return total


def step_error(error: Exception, model: str) -> StepError:
    """A failure of pydantic-ai in the words and codes of steps."""
    wait = error.retry_after if isinstance(error, exceptions.ModelAPIError) else None
    status = error.status_code if isinstance(error, exceptions.ModelHTTPError) else None
    answered = f" ({status})" if status else ""
    match error:
        case exceptions.ModelRequestTimeout() | exceptions.ModelTimeoutError():
            return StepError(f"The model '{model}' did not answer in time", code="model_timeout")
        case exceptions.ModelConnectionError():
            return StepError(f"The provider of '{model}' could not be reached", code="model_unavailable")
        case exceptions.ModelQuotaExceededError():
            detail = f"The account for '{model}' has used up its quota or credit{answered}"
            return StepError(detail, code="model_quota_exceeded", retryable=False)
        case exceptions.ModelAPIError() if isinstance(error, exceptions.ModelAuthenticationError) or status in (
            401,
            403,
        ):
            detail = f"The provider of '{model}' refused the key{answered}: that of `api_key`, or the operator's"
            return StepError(detail, code="model_not_configured", retryable=False)
        case exceptions.ModelAPIError() if isinstance(error, exceptions.ModelNotFoundError) or status == 404:
            detail = f"The provider does not know the model '{model}'{answered}"
            return StepError(detail, code="unknown_model", retryable=False)
        case exceptions.ModelAPIError() if isinstance(error, exceptions.ModelRateLimitError) or status == 429:
            detail = f"The provider of '{model}' asks to slow down{answered}"
            return StepError(detail, code="model_rate_limited", retry_after=wait)
        case exceptions.ModelHTTPError() if status is not None and status < 500 and status != 408:
            detail = f"The provider of '{model}' rejected the request{answered}: {_words_of(error.body)}"
            return StepError(detail, code="model_request_rejected", retryable=False)
        case exceptions.ModelAPIError():
            detail = f"The provider of '{model}' failed{answered}"
            return StepError(detail, code="model_unavailable", retry_after=wait)
    return _answer_error(error, model)


def _answer_error(error: Exception, model: str) -> StepError:
    match error:
        case exceptions.OutputTokenLimitExceeded():
            detail = f"The answer of '{model}' was cut off: raise `max_tokens`"
            return StepError(detail, code="model_output_truncated", retryable=False)
        case exceptions.ContentFilterError():
            return StepError(f"The provider of '{model}' filtered the answer", code="model_refused", retryable=False)
        case exceptions.UserError():
            detail = f"The model '{model}' cannot do this: {clean_text(str(error), 300)}"
            return StepError(detail, code="invalid_config", retryable=False)
        case _:
            return StepError(f"The answer of '{model}' was not of the asked shape", code="model_output_invalid")


def _words_of(body: object) -> str:
    found = body.get("error", body) if isinstance(body, dict) else None
    message = found.get("message") if isinstance(found, dict) else found
    return clean_text(message, 300) if isinstance(message, str) else "it gave no reason"


def _not_installed(model: str, provider: str, message: str) -> StepError:
    extra = _EXTRA.search(message)
    package = f'pip install "pydantic-ai-slim[{extra[1]}]"' if extra else "the provider's package"
    detail = f"The model '{model}' needs the package of its provider '{provider}', which is not installed: {package}"
    return StepError(detail, code="model_provider_not_installed", retryable=False)


def _not_configured(model: str, provider: str, message: str) -> StepError:
    if message.startswith("Unknown model"):
        return _unknown(f"'{model}' is not a model of '{provider}' that can answer")
    names = list(dict.fromkeys(_ENVIRONMENT_NAME.findall(message)))
    if provider in OPENAI_FAMILY:
        names = ["OPENAI_API_KEY", "STEPSTREAM_OPENAI_BASE_URL"]
    todo = f"set the environment variable {' or '.join(names)}" if names else "see its provider's documentation"
    detail = f"The model '{model}' is not configured in this deployment: {todo}"
    return StepError(detail, code="model_not_configured", retryable=False)


def _unknown(detail: str) -> StepError:
    return StepError(
        f"{detail}; write `provider:model`, such as `openai:gpt-5.2`", code="unknown_model", retryable=False
    )
