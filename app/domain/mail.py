"""What reaches a run from outside: people's wishes, signals, decisions, and the ends of other runs.

Mail is stored first and taken in later by whoever owns the run, so it never matters whether it came before, at or after
the moment the run began to wait for it.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.domain.errors import clean_text
from app.domain.jsontext import JSON

MAX_REASON = 500
"""Characters of why somebody asks for something."""


class MailKind(StrEnum):
    """`topic` is the name of a signal, the id of an approval, the id of a child execution; other kinds have none."""

    CANCEL = "cancel"
    TERMINATE = "terminate"
    PAUSE = "pause"
    RESUME = "resume"
    STEP = "step"
    BREAKPOINTS = "breakpoints"
    EDIT = "edit"
    BUDGET = "budget"
    SIGNAL = "signal"
    DECISION = "decision"
    CHILD = "child"


def clean_reason(reason: str | None) -> str | None:
    """A reason as it is stored and told."""
    return None if reason is None else clean_text(reason, MAX_REASON)


LETTERS = frozenset({MailKind.SIGNAL, MailKind.DECISION, MailKind.CHILD})
"""Mail that a waiting step consumes; it is kept until one does."""


@dataclass(frozen=True, slots=True)
class Mail:
    """One piece of mail. `taken` is true for a letter that an earlier owner has already taken note of."""

    id: str
    kind: str
    payload: JSON
    user_id: str | None
    topic: str | None = None
    sent_at: datetime | None = None
    taken: bool = False
