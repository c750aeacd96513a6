"""Reading two runs side by side within the tenant's scope."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import CTE, JSON, ColumnElement, Select, Text, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.queries.executions import Row, fetch_rows
from app.db.queries.insight import any_of
from app.db.tables import execution_steps as steps

_COMPARED = (
    "path", "type", "step_number", "status", "ports", "reason", "error", "error_code", "execution_time_ms",
    "tokens_used", "cost",
)  # fmt: skip


async def compared_steps(
    connection: AsyncConnection,
    org_id: str,
    left: str,
    right: str,
    paths: Sequence[str],
    result_keys: Mapping[str, Sequence[str]],
) -> Sequence[Row]:
    """These steps of two executions side by side, as `left_…` and `right_…`, in the order of the right one.

    Payloads are only said to differ, with their sizes in characters; of outputs, what `result_keys` has by step type.
    """
    one, other = (
        _steps_of(org_id, execution_id, paths).cte(name) for execution_id, name in ((left, "l"), (right, "r"))
    )
    columns = [
        side.c[name].label(f"{word}_{name}") for word, side in (("left", one), ("right", other)) for name in _COMPARED
    ]
    sizes = [
        func.greatest(func.length(one.c[name]), func.length(other.c[name])).label(f"{name}_size")
        for name in ("input", "output")
    ]
    differ = [
        one.c.input.is_distinct_from(other.c.input).label("input_differs"),
        _result(one, result_keys).is_distinct_from(_result(other, result_keys)).label("output_differs"),
    ]
    query = (
        select(*columns, *sizes, *differ)
        .select_from(one.join(other, one.c.path == other.c.path, full=True))
        .order_by(func.coalesce(other.c.step_number, one.c.step_number), func.coalesce(other.c.path, one.c.path))
    )
    return await fetch_rows(connection, query)


def _result(side: CTE, result_keys: Mapping[str, Sequence[str]]) -> ColumnElement[Any]:
    """What the output of a step comes to, as text; of an item of a `for_each` the same."""
    if not result_keys:
        return side.c.output
    kinds = [(side.c.type == kind, _members(side.c.output, keys)) for kind, keys in result_keys.items()]
    return case(*kinds, else_=side.c.output)


def _members(output: ColumnElement[Any], keys: Sequence[str]) -> ColumnElement[Any]:
    # As `json`, which keeps the text of each member: `jsonb` would refuse a NUL.
    value = cast(output, JSON)
    element = func.json_array_elements(value).column_valued("element")
    items = select(func.json_agg(_shown(element, keys))).scalar_subquery()
    listed, shown = cast(items, Text), cast(_shown(value, keys), Text)
    return case(
        (func.json_typeof(value) == "array", listed), (func.json_typeof(value) == "object", shown), else_=output
    )


def _shown(value: ColumnElement[Any], keys: Sequence[str]) -> ColumnElement[Any]:
    other = case((func.json_typeof(value) != "object", cast(value, Text)))
    return func.json_build_array(*(value.op("->")(cast(key, Text)) for key in keys), other)


def _steps_of(org_id: str, execution_id: str, paths: Sequence[str]) -> Select[Any]:
    return select(steps).where(
        steps.c.org_id == org_id, steps.c.execution_id == execution_id, steps.c.path == any_of(paths)
    )


async def payloads(
    connection: AsyncConnection, org_id: str, execution_ids: Sequence[str], paths: Sequence[str], longest: int
) -> Sequence[Row]:
    """Inputs and outputs of these steps of these executions; null where they have more characters than `longest`."""
    texts = [
        case((func.length(column) <= longest, column)).label(column.name) for column in (steps.c.input, steps.c.output)
    ]
    query = select(steps.c.execution_id, steps.c.path, *texts).where(
        steps.c.org_id == org_id, steps.c.execution_id.in_(execution_ids), steps.c.path == any_of(paths)
    )
    return await fetch_rows(connection, query)
