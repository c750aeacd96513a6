"""Secrets as workflows use them: a reference where a value goes, and where that value may be sent."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import Field, ValidationError

from app.domain.definition import Document
from app.domain.errors import Problem
from app.domain.expressions import escape

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
MARK = "$secret"

Path: TypeAlias = "tuple[str | int, ...]"

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(
    rf"""(?: (?P<above>\*\.(?!.*\.[0-9]+(?::|$)))? (?P<name>{_LABEL}(?:\.{_LABEL})*)  # no wildcard before an address
          | \[(?P<address>[0-9a-f:.]{{2,45}})\] )
         (?: : (?P<port>[0-9]{{1,5}}) )?""",
    re.VERBOSE,
)
_HOST_HELP = (
    "A host is a name such as `api.example.com`, `*.example.com` for all below that name, or an address; "
    "`:8443` behind it allows that port only. Write it in lower case"
)


class SecretReference(Document):
    """Stands for the value of a secret. It is written in the definition itself; data never becomes one."""

    name: str = Field(alias=MARK, pattern=NAME_PATTERN, description="The secret's name.")
    format: str = Field(
        default="{}",
        max_length=200,
        pattern=r"^[^{}]*\{\}[^{}]*$",
        description="Text around the value, which takes the place of `{}`.",
        examples=["Bearer {}"],
    )


class OpenedSecret(SecretReference):
    """A reference with its value, for the moment of use. It has no JSON form, so it cannot be stored by mistake."""

    value: str = Field(repr=False)
    allowed_hosts: tuple[str, ...]

    @property
    def text(self) -> str:
        """What is sent."""
        return self.format.replace("{}", self.value)


@dataclass(frozen=True, slots=True)
class SecretUse:
    """Where in a step's `with` a reference stands."""

    path: Path
    reference: SecretReference

    @property
    def pointer(self) -> str:
        """RFC 6901, relative to `with`."""
        return _pointer(self.path)


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret as it is kept. `value` is None if this deployment's keys do not open it; `former` are values before."""

    name: str
    allowed_hosts: tuple[str, ...]
    value: str | None = field(repr=False)
    former: tuple[str, ...] = field(default=(), repr=False)

    @property
    def values(self) -> tuple[str, ...]:
        """Everything that must not be told."""
        return self.former if self.value is None else (self.value, *self.former)


def secret_uses(config: Mapping[str, Any], allowed: frozenset[str]) -> tuple[list[SecretUse], list[Problem]]:
    """The references in a step's `with`, and what is wrong with them; they belong under the keys `allowed` only.

    Pointers are relative to `with`.
    """
    uses: list[SecretUse] = []
    problems: list[Problem] = []
    for path, marked in _marked(config, ()):
        pointer = _pointer(path)
        if not path or path[0] not in allowed:
            problems.append(Problem("secret_not_allowed", _where(allowed), pointer))
            continue
        try:
            uses.append(SecretUse(path, SecretReference.model_validate(marked)))
        except ValidationError:
            problems.append(Problem("invalid_secret_reference", _SHAPE, pointer))
    return uses, problems


def is_reference(value: object) -> bool:
    """Whether a value of a definition stands for a secret, rightly or not."""
    return isinstance(value, Mapping) and MARK in value


def place(config: Mapping[str, Any], path: Path, value: object) -> dict[str, Any]:
    """A copy of the `with` that has the value at the path."""
    placed: dict[str, Any] = _placed(config, path, value)
    return placed


def host_problem(pattern: str) -> str | None:
    """What is wrong with an entry of `allowed_hosts`, None if nothing is."""
    found = _HOST.fullmatch(pattern)
    if found is None or len(pattern) > 260 or (found["above"] and "." not in found["name"]):
        return _HOST_HELP
    return None


def host_allowed(allowed_hosts: Iterable[str], host: str, port: int) -> bool:
    """Whether what is for these hosts may be sent to this one; an IPv6 address without brackets."""
    return any(_matches(pattern, host.lower().rstrip("."), port) for pattern in allowed_hosts)


def not_for(name: str, host: str, allowed_hosts: Iterable[str]) -> str:
    """Says that a secret may not go to a host."""
    return f"The secret '{name}' may not be sent to {host}: it is for {', '.join(allowed_hosts)}"


_SHAPE = (
    'A secret is written as {"$secret": "name"}, with "format": "Bearer {}" beside it if text stands around the value; '
    "neither has expressions in it"
)


def _pointer(path: Path) -> str:
    return "".join(f"/{escape(token)}" for token in path)


def _where(allowed: frozenset[str]) -> str:
    if not allowed:
        return "Steps of this type cannot use secrets: what they are given is shown, stored and told"
    named = ", ".join(f"`{key}`" for key in sorted(allowed))
    return f"Steps of this type use secrets only in {named}, where the value is sent and not kept"


def _marked(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if is_reference(node):
        yield path, node
    elif isinstance(node, Mapping):
        for key, item in node.items():
            yield from _marked(item, (*path, key))
    elif isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from _marked(item, (*path, index))


def _placed(node: Any, path: Path, value: object) -> Any:
    if not path:
        return value
    copied: Any = list(node) if isinstance(node, list) else dict(node)
    copied[path[0]] = _placed(copied[path[0]], path[1:], value)
    return copied


def _matches(pattern: str, host: str, port: int) -> bool:
    found = _HOST.fullmatch(pattern)
    if found is None or (found["port"] and int(found["port"]) != port):
        return False
    return host.endswith(f".{found['name']}") if found["above"] else host == (found["name"] or found["address"])
