"""Two runs side by side: what the record says of both, and the differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.queries import comparison as queries
from app.db.queries import insight
from app.db.queries.executions import Row
from app.domain.jsontext import NotJson, decode
from app.domain.rundiff import (
    COMPARED_BYTES,
    COMPARED_BYTES_IN_ALL,
    LEFT_OUT,
    Divergence,
    Patch,
    PatchMaker,
    StepDiff,
    StepPair,
    StepSide,
    first_divergence,
)

ResultKeys: TypeAlias = Mapping[str, Sequence[str]]
"""The members of outputs to compare, by step type; see `StepSpec.result_keys`."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is read about two runs. `definitions` are None if the versions are the same, or one is gone.

    `sizes` are those of the payloads of steps that differ; `texts` the payloads that are small enough to compare, by
    execution and step; `compared` the members of the outputs of a step to look at, none: all of it.
    """

    left: Row
    right: Row
    definitions: tuple[str | None, str | None] | None
    pairs: Sequence[StepPair]
    sizes: dict[str, tuple[int, int]]
    texts: dict[tuple[str, str], Row]
    compared: dict[str, Sequence[str]]

    @property
    def same_input(self) -> bool:
        return bool(self.left["input_data"] == self.right["input_data"])


@dataclass(frozen=True, slots=True)
class RunDiff:
    """How the right run differs from the left one; patches are None where nothing differs."""

    left: Row
    right: Row
    same_input: bool
    input_patch: Patch | None
    output_patch: Patch | None
    definition_changes: Patch | None
    first_divergence: Divergence | None
    steps: Sequence[StepDiff]


@dataclass(frozen=True, slots=True)
class DiffSummary:
    """How a run differs from the last success before it, in short."""

    other_id: str
    first_divergence: Divergence | None
    definition_changed: bool
    input_changed: bool


async def summarize(
    connection: AsyncConnection, org_id: str, left: Row, right: Row, result_keys: ResultKeys
) -> DiffSummary:
    """The difference in short, without reading payloads."""
    found = await _compared(connection, org_id, left, right, result_keys)
    changed = found.definitions is not None and found.definitions[0] != found.definitions[1]
    return DiffSummary(left["id"], first_divergence(found.pairs), changed, not found.same_input)


async def read_both(
    connection: AsyncConnection, org_id: str, left: Row, right: Row, result_keys: ResultKeys
) -> Comparison:
    """Everything that `differences` looks at; payloads only where they differ and within its budget."""
    found = await _compared(connection, org_id, left, right, result_keys)
    paths, room = [], COMPARED_BYTES_IN_ALL
    for pair in found.pairs:
        sizes = [size for size in found.sizes[pair.step_id] if 0 < size <= COMPARED_BYTES]
        if sizes and sum(sizes) <= room:
            paths.append(pair.step_id)
            room -= sum(sizes)
    if paths:
        ids = [left["id"], right["id"]]
        for row in await queries.payloads(connection, org_id, ids, paths, COMPARED_BYTES):
            found.texts[row["execution_id"], row["path"]] = row
    return found


def differences(found: Comparison, *, payloads: bool) -> RunDiff:
    """Pure, and up to a second of work for runs with much that differs; without `payloads` they are said to differ."""
    maker = PatchMaker()
    left, right = found.left, found.right
    definition = None if found.definitions is None else maker.between(*found.definitions)
    if not payloads:
        maker.bytes_left = 0
    input_patch = maker.between(left["input_data"], right["input_data"])
    steps = [_step(found, pair, maker) for pair in found.pairs]
    return RunDiff(
        left=left,
        right=right,
        same_input=input_patch is None,
        input_patch=input_patch,
        output_patch=maker.between(left["output"], right["output"]),
        definition_changes=definition,
        first_divergence=first_divergence([step.pair for step in steps]),
        steps=steps,
    )


def _step(found: Comparison, pair: StepPair, maker: PatchMaker) -> StepDiff:
    if pair.left is None or pair.right is None:
        return StepDiff(pair)
    before = found.texts.get((found.left["id"], pair.step_id))
    after = found.texts.get((found.right["id"], pair.step_id))
    sizes = dict(zip(("input", "output"), found.sizes[pair.step_id], strict=True))

    def patch(name: str, differs: bool, members: Sequence[str] = ()) -> Patch | None:
        if not differs:
            return None
        if before is None or after is None or sizes[name] > COMPARED_BYTES:
            return LEFT_OUT
        return maker.between(before[name], after[name], members)

    input_patch = patch("input", pair.input_differs)
    output_patch = patch("output", pair.output_differs, found.compared[pair.step_id])
    # Texts may differ where values do not, in the order of members.
    told = StepPair(pair.step_id, pair.left, pair.right, input_patch is not None, output_patch is not None)
    return StepDiff(told, input_patch, output_patch)


async def _compared(
    connection: AsyncConnection, org_id: str, left: Row, right: Row, result_keys: ResultKeys
) -> Comparison:
    one, other = await _definition(connection, org_id, left), await _definition(connection, org_id, right)
    paths = [*dict.fromkeys([*_step_ids(other), *_step_ids(one)])]
    rows = await queries.compared_steps(connection, org_id, left["id"], right["id"], paths, result_keys)
    place = {path: number for number, path in enumerate(paths)}
    ordered = sorted(rows, key=lambda row: (row["right_step_number"] or row["left_step_number"], place[_path(row)]))
    same = _version(left) == _version(right)
    return Comparison(
        left=left,
        right=right,
        definitions=None if same else (one, other),
        pairs=[_pair(row) for row in ordered],
        sizes={
            _path(row): (
                (row["input_size"] or 0) if row["input_differs"] else 0,
                (row["output_size"] or 0) if row["output_differs"] else 0,
            )
            for row in rows
        },
        texts={},
        compared={_path(row): result_keys.get(row["right_type"] or row["left_type"], ()) for row in rows},
    )


async def _definition(connection: AsyncConnection, org_id: str, row: Row) -> str | None:
    return await insight.definition_text(connection, org_id, row["workflow_id"], row["workflow_version"])


def _version(row: Row) -> tuple[str, int]:
    return row["workflow_id"], row["workflow_version"]


def _step_ids(definition: str | None) -> list[str]:
    try:
        document: Any = decode(definition or "null")
    except NotJson:
        return []
    steps = document.get("steps") if isinstance(document, dict) else None
    listed = steps if isinstance(steps, list) else []
    return [step["id"] for step in listed if isinstance(step, dict) and isinstance(step.get("id"), str)]


def _path(row: Row) -> str:
    path: str = row["right_path"] or row["left_path"]
    return path


def _pair(row: Row) -> StepPair:
    return StepPair(_path(row), _side(row, "left"), _side(row, "right"), row["input_differs"], row["output_differs"])


def _side(row: Row, word: str) -> StepSide | None:
    if row[f"{word}_path"] is None:
        return None
    return StepSide(
        status=row[f"{word}_status"],
        ports=frozenset(row[f"{word}_ports"]),
        reason=row[f"{word}_reason"],
        error=row[f"{word}_error"],
        error_code=row[f"{word}_error_code"],
        duration_ms=row[f"{word}_execution_time_ms"],
        tokens=row[f"{word}_tokens_used"],
        cost=row[f"{word}_cost"],
    )
