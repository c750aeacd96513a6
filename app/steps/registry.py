"""All step types of a deployment, by name."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from app.domain.errors import Problem
from app.domain.steps import StepSpec
from app.engine.step_types import StepType
from app.settings import Settings, SettingsError
from app.steps.addresses import egress_rule
from app.steps.agent import AgentStep
from app.steps.flow import DelayStep, EndStep, FailStep, StartStep, SwitchStep
from app.steps.function import FunctionCatalogue, FunctionStep
from app.steps.http_request import HttpRequestStep
from app.steps.outbound import Outbound, Resolver, system_resolver
from app.steps.subworkflow import WorkflowRunStep
from app.steps.values import LogStep, SetStep
from app.steps.waiting import ApprovalStep, WaitForSignalStep


class StepRegistry(Mapping[str, StepType]):
    """The step types by their names, in the order of documentation. `aclose` releases what they hold."""

    def __init__(self, types: Iterable[StepType], closers: Iterable[Callable[[], Awaitable[None]]] = ()) -> None:
        self._types = {kind.spec.type: kind for kind in types}
        self._closers = tuple(closers)

    def __getitem__(self, name: str) -> StepType:
        return self._types[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._types)

    def __len__(self) -> int:
        return len(self._types)

    def specs(self) -> tuple[StepSpec, ...]:
        """The declarations of all types."""
        return tuple(kind.spec for kind in self._types.values())

    def spec(self, step_type: str) -> StepSpec | None:
        """The declaration of a type, None if there is none of that name."""
        kind = self._types.get(step_type)
        return kind.spec if kind else None

    def check(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        """Problems of a step's `with` beyond its schema; an unknown type has none."""
        kind = self._types.get(step_type)
        return kind.check(config) if kind else []

    def missing_setup(self, step_type: str, config: Mapping[str, Any]) -> list[Problem]:
        """What this deployment lacks for a step's `with` to work; an unknown type lacks nothing."""
        kind = self._types.get(step_type)
        return kind.missing_setup(config) if kind else []

    async def aclose(self) -> None:
        """Release connections and threads. The types work again after it, on fresh ones."""
        for close in self._closers:
            await close()


def default_registry(
    settings: Settings, *, functions: FunctionCatalogue | None = None, resolver: Resolver = system_resolver
) -> StepRegistry:
    """The shipped step types; raises SettingsError for egress settings that cannot be used.

    `functions` are those of installed packages unless given; `resolver` answers host names of `http.request`.
    """
    try:
        rule = egress_rule(settings.egress_allow_cidrs, settings.egress_ports)
    except ValueError as error:
        raise SettingsError(f"STEPSTREAM_EGRESS_ALLOW_CIDRS: {error}") from error
    outbound = Outbound(rule, resolver=resolver, own_port=settings.port)
    function = FunctionStep(FunctionCatalogue.installed() if functions is None else functions)
    agent = AgentStep(settings)
    types: list[StepType] = [
        StartStep(),
        EndStep(),
        SetStep(),
        SwitchStep(),
        DelayStep(),
        LogStep(),
        FailStep(),
        WaitForSignalStep(),
        ApprovalStep(),
        WorkflowRunStep(),
        function,
        HttpRequestStep(outbound, settings.max_output),
        agent,
    ]
    return StepRegistry(types, closers=(outbound.aclose, agent.aclose, function.aclose))
