"""Secrets among the settings of a step, at the moment of use."""

from collections.abc import Mapping
from typing import Any

from app.domain.errors import StepError
from app.domain.secrets import OpenedSecret, SecretReference


def opened_secrets(*values: Any) -> tuple[OpenedSecret, ...]:
    """Those in the values, however deep. Raises StepError for one that the definition does not name itself."""
    found: list[OpenedSecret] = []
    left: list[Any] = [*values]
    while left:
        match left.pop():
            case OpenedSecret() as secret:
                found.append(secret)
            case SecretReference(name=name):
                message = f"The secret '{name}' is not written in the definition: data cannot name a secret"
                raise StepError(message, code="secret_not_allowed", retryable=False)
            case Mapping() as members:
                left.extend(members.values())
            case list() | tuple() as items:
                left.extend(items)
    return tuple(found)


def revealed(value: Any) -> Any:
    """The value with the text of each secret in its place."""
    match value:
        case OpenedSecret():
            return value.text
        case Mapping():
            return {key: revealed(item) for key, item in value.items()}
        case list() | tuple():
            return [revealed(item) for item in value]
        case _:
            return value
