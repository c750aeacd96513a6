"""How two runs differ: where they first part, and what each of their steps did differently.

Everything reads from left to right: patches turn what is left into what is right, differences are right minus left.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jsonpatch

from app.domain.jsontext import JSON, NotJson, decode, encode

COMPARED_BYTES, COMPARED_BYTES_IN_ALL = 64 << 10, 1 << 20
COMPARED_VALUES, COMPARED_VALUES_IN_ALL = 2_000, 20_000
"""What is larger is only said to differ: finding the difference of long lists takes more than linear time."""
SHOWN_OPERATIONS = 100
SHOWN_BYTES, SHOWN_BYTES_IN_ALL = 32 << 10, 256 << 10

Operation: TypeAlias = "dict[str, JSON]"


@dataclass(frozen=True, slots=True)
class Patch:
    """RFC 6902 operations that lead from left to right; `whole` unless some, or all, of them are left out."""

    operations: Sequence[Operation]
    whole: bool = True


LEFT_OUT = Patch((), whole=False)
"""There is a difference, but it is too large to find or to show."""


@dataclass(frozen=True, slots=True)
class StepSide:
    """A step as one run recorded it. `ports` are the ports taken."""

    status: str
    ports: frozenset[str] = frozenset()
    reason: str | None = None
    error: str | None = None
    error_code: str | None = None
    duration_ms: float | None = None
    tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class StepPair:
    """One step in both runs; None where a run never reached it.

    `input_differs` and `output_differs` hold for the whole texts, which need not be at hand.
    """

    step_id: str
    left: StepSide | None
    right: StepSide | None
    input_differs: bool = False
    output_differs: bool = False


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first step in topological order where the runs part, what differs, and a sentence."""

    step_id: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class StepDiff:
    """What one step did differently. Patches are None where nothing differs."""

    pair: StepPair
    input_patch: Patch | None = None
    output_patch: Patch | None = None

    @property
    def duration_delta_ms(self) -> float | None:
        left, right = self.pair.left, self.pair.right
        if left is None or right is None or left.duration_ms is None or right.duration_ms is None:
            return None
        return round(right.duration_ms - left.duration_ms, 3)

    @property
    def tokens_delta(self) -> int:
        left, right = self.pair.left, self.pair.right
        return (right.tokens if right else 0) - (left.tokens if left else 0)

    @property
    def cost_delta(self) -> float:
        left, right = self.pair.left, self.pair.right
        return (right.cost if right else 0.0) - (left.cost if left else 0.0)


@dataclass(slots=True)
class PatchMaker:
    """Makes the patches of one answer within one budget: bytes and values still to compare, bytes still to show."""

    bytes_left: int = COMPARED_BYTES_IN_ALL
    values_left: int = COMPARED_VALUES_IN_ALL
    shown_left: int = SHOWN_BYTES_IN_ALL

    def between(self, left: str | None, right: str | None, members: Sequence[str] = ()) -> Patch | None:
        """The patch from one JSON text to another, None if their values are equal; no text counts as null.

        `members` are those of an object, or of each object of a list, that are looked at; none given: all.
        """
        old, new = left or "null", right or "null"
        if old == new:
            return None
        self.bytes_left -= len(old) + len(new)
        if max(len(old), len(new)) > COMPARED_BYTES or self.bytes_left < 0:
            return LEFT_OUT
        try:
            return self._compared(_narrowed(decode(old), members), _narrowed(decode(new), members))
        except (NotJson, RecursionError, jsonpatch.JsonPatchException):
            return LEFT_OUT

    def _compared(self, old: JSON, new: JSON) -> Patch | None:
        values = max(_values(old), _values(new))
        self.values_left -= values
        if values > COMPARED_VALUES or self.values_left < 0:
            return LEFT_OUT
        operations: list[Operation] = jsonpatch.make_patch(old, new).patch
        shown = [*self._fitting(operations[:SHOWN_OPERATIONS])]
        return Patch(shown, whole=len(shown) == len(operations)) if operations else None

    def _fitting(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        room = min(SHOWN_BYTES, self.shown_left)
        for operation in operations:
            room -= len(encode(operation))
            if room < 0:
                return
            self.shown_left -= len(encode(operation))
            yield operation


def _narrowed(value: JSON, members: Sequence[str]) -> JSON:
    if not members:
        return value
    if isinstance(value, list):
        return [_member_of(item, members) for item in value]
    return _member_of(value, members)


def _member_of(value: JSON, members: Sequence[str]) -> JSON:
    return {name: value[name] for name in members if name in value} if isinstance(value, dict) else value


def _values(value: JSON) -> int:
    """How many values there are in a value, itself included; counting stops when there are too many."""
    count, rest = 0, [value]
    while rest and count <= COMPARED_VALUES:
        count += 1
        match rest.pop():
            case dict() as members:
                rest.extend(members.values())
            case list() as items:
                rest.extend(items)
    return count


def first_divergence(pairs: Sequence[StepPair]) -> Divergence | None:
    """Where the runs first part; `pairs` are in topological order."""
    return next(_divergences(pairs), None)


def _divergences(pairs: Sequence[StepPair]) -> Iterator[Divergence]:
    for pair in pairs:
        found = _difference(pair)
        if found is not None:
            yield Divergence(pair.step_id, *found)


def _difference(pair: StepPair) -> tuple[str, str] | None:
    """What differs in one step, causes before effects: its input, how it ended, what it gave."""
    left, right, name = pair.left, pair.right, f"Step '{pair.step_id}'"
    if left is None or right is None:
        if left is None and right is None:
            return None
        where = "right" if left is None else "left"
        return "reached", f"{name} was reached only in the {where} run"
    if pair.input_differs:
        return "input", f"{name} got another input" + _ended_otherwise(left, right)
    if left.status != right.status:
        why = _why(right)
        return "status", f"{name} is {right.status} instead of {left.status}" + (f": {why}" if why else "")
    if left.error_code != right.error_code:
        return "error", f"{name} failed with {right.error_code} instead of {left.error_code}"
    # How a step completed, run, cached or pinned, is no difference of its own: what it gave is compared.
    if left.reason != right.reason and left.status != "COMPLETED":
        return "reason", f"{name} is {right.status} for another reason: {right.reason} instead of {left.reason}"
    if left.ports != right.ports:
        return "ports", f"{name} took {_ports(right)} instead of {_ports(left)}"
    if pair.output_differs:
        return "output", f"{name} gave another output"
    return None


def _ended_otherwise(left: StepSide, right: StepSide) -> str:
    if left.status == right.status:
        return ""
    return f", and is {right.status} instead of {left.status}"


def _why(side: StepSide) -> str | None:
    return side.error or side.error_code or side.reason


def _ports(side: StepSide) -> str:
    return ", ".join(f"'{port}'" for port in sorted(side.ports)) or "no port"
