"""What every step type shares: a typed `with`, whose model is the schema, the validation and the documentation."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from app.domain.definition import RetryPolicy
from app.domain.errors import Problem, StepError
from app.domain.expressions import escape, is_template
from app.domain.jsontext import JSON, encode
from app.domain.steps import Done, Sleep, StepSpec
from app.domain.waits import Await
from app.engine.step_types import StepContext

ConfigT = TypeVar("ConfigT", bound=BaseModel)

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
ONE_ATTEMPT = RetryPolicy(max_attempts=1)
THREE_ATTEMPTS = RetryPolicy()


class TypedStep(ABC, Generic[ConfigT]):
    """A step type whose `with` is the pydantic model `config_model`. A new type sets the two attributes and `perform`.

    `run` raises StepError `invalid_config`, with pointers but without values, when the resolved `with` does not fit.
    """

    config_model: type[ConfigT]
    spec: StepSpec

    def check(self, config: Mapping[str, Any]) -> list[Problem]:
        """What the schema of `with` cannot say, for the values that are no templates."""
        try:
            self.config_model.model_validate(config)
        except ValidationError as error:
            return list(_beyond_schema(error, config))
        return []

    def missing_setup(self, config: Mapping[str, Any]) -> list[Problem]:  # noqa: ARG002
        """Most types need nothing from their surroundings."""
        return []

    async def run(self, context: StepContext, config: Mapping[str, Any]) -> Done | Sleep | Await:
        try:
            typed = self.config_model.model_validate(config)
        except ValidationError as error:
            found = "; ".join(f"{pointer(item['loc']) or 'with'}: {_sentence(item['msg'])}" for item in _errors(error))
            raise invalid_config(f"The settings of this {self.spec.type} step do not fit: {found}") from None
        return await self.perform(context, typed)

    @abstractmethod
    async def perform(self, context: StepContext, config: ConfigT) -> Done | Sleep | Await:
        """One attempt with valid settings."""


class PureStep(TypedStep[ConfigT]):
    """A step type that only computes: its outcome follows from its settings."""

    async def perform(self, context: StepContext, config: ConfigT) -> Done | Sleep | Await:  # noqa: ARG002
        return self.outcome(config)

    @abstractmethod
    def outcome(self, config: ConfigT) -> Done | Sleep | Await:
        """What these settings come to; raises StepError."""


def invalid_config(message: str) -> StepError:
    """The failure of a `with` that cannot work however often it is tried."""
    return StepError(message, code="invalid_config", retryable=False)


def message_text(value: JSON) -> str:
    """Any JSON as a message: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else encode(value)


def pointer(path: Sequence[object]) -> str:
    """RFC 6901 pointer of a path."""
    return "".join(f"/{escape(token)}" for token in path)


def has_template(value: object) -> bool:
    """True when a value is, or has anywhere inside, text with an expression in it."""
    if isinstance(value, Mapping):
        return any(map(has_template, value.values()))
    if isinstance(value, list | tuple):
        return any(map(has_template, value))
    return is_template(value)


def _beyond_schema(error: ValidationError, config: Mapping[str, Any]) -> Iterator[Problem]:
    for item in _errors(error):
        path = item["loc"]
        # A rule over the whole object (an empty path) is about which keys there are, templates or not.
        if item["type"] == "value_error" and not (path and has_template(_value_at(config, path))):
            yield Problem("invalid_config", _sentence(item["msg"]), pointer(path))


def _errors(error: ValidationError) -> Sequence[Any]:
    return error.errors(include_url=False, include_input=False, include_context=False)


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ")


def _value_at(value: Any, path: Sequence[int | str]) -> Any:
    for token in path:
        if isinstance(value, Mapping):
            value = value.get(token)
        elif isinstance(value, list) and isinstance(token, int) and token < len(value):
            value = value[token]
        else:
            return value
    return value
