"""Query parameters: those that a route declares, each as often as it may be given, and no others."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args, get_origin

from fastapi.dependencies.models import Dependant
from starlette.datastructures import QueryParams
from starlette.requests import Request

from app.domain.errors import MAX_PROBLEMS, Problem, Problems, clean_text


@dataclass(frozen=True, slots=True)
class Prefixed:
    """Depends on all query parameters `<prefix><key>=<value>`, by key."""

    prefix: str

    async def __call__(self, request: Request) -> dict[str, str]:
        return {
            name.removeprefix(self.prefix): value
            for name, value in request.query_params.multi_items()
            if name.startswith(self.prefix)
        }


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a route takes in its query: parameters given once, those that may be repeated, and prefixes."""

    single: frozenset[str]
    repeatable: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, dependant: Dependant) -> "Parameters":
        """What a route and all that it depends on declare."""
        every = list(_with_dependencies(dependant))
        fields = [field for each in every for field in each.query_params]
        repeatable = {field.alias for field in fields if _is_list(field.field_info.annotation)}
        return cls(
            single=frozenset(field.alias for field in fields) - repeatable,
            repeatable=frozenset(repeatable),
            prefixes=tuple(each.call.prefix for each in every if isinstance(each.call, Prefixed)),
        )

    def refusal(self, query: QueryParams) -> Problems | None:
        """Why a query is not one for this route; None if it is."""
        counts = Counter(name for name, _ in query.multi_items())
        unknown = [name for name in counts if not self._takes(name)]
        if unknown:
            return _refusal("unknown_parameter", "There is no such query parameter here", unknown)
        repeated = [name for name, count in counts.items() if count > 1 and name not in self.repeatable]
        return _refusal("duplicate_parameter", "A query parameter is given twice", repeated) if repeated else None

    def _takes(self, name: str) -> bool:
        return name in self.single or name in self.repeatable or name.startswith(self.prefixes)


def _with_dependencies(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for dependency in dependant.dependencies:
        yield from _with_dependencies(dependency)


def _is_list(annotation: object) -> bool:
    return any(get_origin(each) is list for each in (annotation, *get_args(annotation)))


def _refusal(code: str, detail: str, names: list[str]) -> Problems:
    shown = [clean_text(name, 64) for name in names[:MAX_PROBLEMS]]
    return Problems(f"{detail}: {shown[0]}", [Problem(code, detail, f"query:{name}") for name in shown], code=code)
