"""When decisions decide: one rejection rejects, `quorum` approvals approve, whichever comes first."""

from collections.abc import Iterable
from typing import Literal, TypeAlias

Decision: TypeAlias = Literal["approve", "reject"]
Verdict: TypeAlias = Literal["approved", "rejected"]


def verdict(quorum: int, decisions: Iterable[Decision]) -> Verdict | None:
    """What decisions, in the order they were made, come to; None: not decided yet."""
    for approvals, decision in enumerate(decisions, start=1):
        if decision == "reject":
            return "rejected"
        if approvals >= quorum:
            return "approved"
    return None
