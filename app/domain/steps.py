"""What a step type declares about itself, and what an attempt of it yields. The step library implements it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from app.domain.definition import RetryPolicy
from app.domain.jsontext import JSON


class Effect(StrEnum):
    """How often the world may see a step: it decides barriers, default retries and what a lost worker means."""

    PURE = "pure"
    IDEMPOTENT = "idempotent"
    ONCE = "once"


@dataclass(frozen=True, slots=True)
class StepSpec:
    """The declaration of a step type: all that validation, planning and documentation need of it.

    `config_schema` and `output_schema` are JSON Schemas of `with` and of the output. `timeout` is in seconds.
    `ports_from` names the key of `with` whose object keys, and the value of `default_port_from`, are ports (a switch's
    cases and default); `fixed_ports` are those of every instance; `port_of` tells the one that an output takes.
    `secrets_in` are the keys of `with` under which a secret may stand for a value: what is there is sent, never kept;
    `sends_to` tells the host and the port it is sent to, None where only a run knows.
    An attempt of an `immediate` one waits for nothing, and takes no time to speak of.
    `result_keys` are the members of the output that say what came of it, if others (a time, an id) are new each time:
    comparing runs looks at these alone. None given: all are.
    """

    type: str
    title: str
    description: str
    category: str
    icon: str
    effect: Effect
    config_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any]
    retry: RetryPolicy
    timeout: float
    ports_from: str | None = None
    default_port_from: str | None = None
    function_from: str | None = None
    safe_when: tuple[str, frozenset[str]] | None = None
    fixed_ports: tuple[str, ...] = ()
    port_of: Callable[[Mapping[str, Any]], object] | None = None
    secrets_in: frozenset[str] = frozenset()
    sends_to: Callable[[Mapping[str, Any]], tuple[str, int] | None] | None = None
    immediate: bool = False
    result_keys: tuple[str, ...] = ()

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        """The effect of an instance with this `with`."""
        if self.safe_when is not None:
            key, safe = self.safe_when
            if str(config.get(key, "")).upper() in safe:
                return Effect.IDEMPOTENT
        return self.effect

    def ports(self, config: Mapping[str, Any]) -> frozenset[str]:
        """The named ports of an instance with this `with`."""
        named: set[str] = set(self.fixed_ports)
        cases = config.get(self.ports_from) if self.ports_from else None
        if isinstance(cases, Mapping):
            named.update(str(name) for name in cases)
        default = config.get(self.default_port_from) if self.default_port_from else None
        if isinstance(default, str):
            named.add(default)
        return frozenset(named)

    def ports_taken(self, config: Mapping[str, Any], output: JSON) -> frozenset[str]:
        """The ports that an output takes which a person gave in place of the step's own."""
        if self.port_of is None or not isinstance(output, dict):
            return frozenset()
        return frozenset(port for port in self.ports(config) if port == self.port_of(output))

    def function(self, config: Mapping[str, Any]) -> str:
        """The word that `step_started` shows as `function`."""
        named = config.get(self.function_from) if self.function_from else None
        return named if isinstance(named, str) else self.type


@dataclass(frozen=True, slots=True)
class Usage:
    """What a model call consumed; `cost` in US dollars."""

    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.tokens + other.tokens, self.cost + other.cost)


NO_USAGE = Usage()


class Done(NamedTuple):
    """The attempt succeeded. `ports` are the ports taken; `agent_result` goes into the execution's agent_results."""

    output: JSON = None
    ports: frozenset[str] = frozenset()
    agent_result: JSON = None


@dataclass(frozen=True, slots=True)
class Sleep:
    """The attempt wants to be settled later: after `seconds` the step completes with `output`, holding nothing."""

    seconds: float
    output: JSON = None
