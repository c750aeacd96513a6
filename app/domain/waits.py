"""What a step may wait for besides a time, and what the letters that have arrived make of it.

Letters are matched in the order they were sent; each is used by one wait only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from app.domain.approvals import Decision, verdict
from app.domain.definition import Deciders
from app.domain.errors import Failure
from app.domain.jsontext import JSON
from app.domain.mail import Mail, MailKind
from app.domain.steps import Usage

SIGNAL_PATTERN = r"^[A-Za-z][A-Za-z0-9_.-]{0,127}$"
"""What the name of a signal looks like."""

OnTimeout: TypeAlias = Literal["fail", "continue"]


@dataclass(frozen=True, slots=True)
class SignalWait:
    """Until one (`any`) or each (`all`) of the named signals has come."""

    names: tuple[str, ...]
    mode: Literal["any", "all"] = "any"
    on_timeout: OnTimeout = "fail"


@dataclass(frozen=True, slots=True)
class ApprovalWait:
    """Until `quorum` people have approved or one has rejected. `form` is the JSON Schema of what they fill in."""

    approval_id: str
    title: str
    message: str | None = None
    form: Any = None
    deciders: Deciders = field(default_factory=Deciders)
    quorum: int = 1
    self_approval: bool = False
    on_deadline: Literal["fail", "approve", "reject"] = "fail"
    on_rejected: Literal["fail", "continue"] = "fail"


@dataclass(frozen=True, slots=True)
class ChildWait:
    """Until another execution has ended."""

    execution_id: str


Awaited: TypeAlias = SignalWait | ApprovalWait | ChildWait


@dataclass(frozen=True, slots=True)
class Await:
    """What an attempt yields to be settled by letters, or after `seconds` without them; None: however long it takes."""

    awaited: Awaited
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Met:
    """The wait is over; `letters` are the ids of those used."""

    output: JSON
    ports: frozenset[str] = frozenset()
    letters: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Refused:
    """The wait is over, and not well."""

    failure: Failure
    letters: tuple[str, ...] = ()


def settle(awaited: Awaited, letters: Sequence[Mail]) -> Met | Refused | None:
    """What the letters come to; None: go on waiting."""
    match awaited:
        case SignalWait():
            return _signalled(awaited, letters)
        case ApprovalWait():
            return _decided(awaited, letters)
        case ChildWait():
            return _ended(awaited, letters)


def expire(awaited: Awaited) -> Met | Refused:
    """What the end of the time to wait comes to."""
    match awaited:
        case SignalWait(names=names):
            if awaited.on_timeout == "continue":
                return Met({"signal": None, "payload": None, "signals": {}}, frozenset({"timed_out"}))
            message = f"The signal {' or '.join(names) if awaited.mode == 'any' else ' and '.join(names)} did not come"
            return Refused(Failure("signal_timeout", f"{message} in time", retryable=False))
        case ApprovalWait():
            if awaited.on_deadline == "approve":
                return _approved(awaited, [], ())
            if awaited.on_deadline == "reject":
                return _rejected(awaited, None, ())
            message = f"Nobody decided on '{awaited.title}' before its deadline"
            return Refused(Failure("approval_expired", message, retryable=False))
        case ChildWait(execution_id=child):
            return Refused(Failure("child_timeout", f"Execution {child} did not end in time"))


def topics(awaited: Awaited) -> tuple[str, ...]:
    """Names under which the letters come."""
    match awaited:
        case SignalWait(names=names):
            return names
        case ApprovalWait(approval_id=approval_id):
            return (approval_id,)
        case ChildWait(execution_id=child):
            return (child,)


def wait_json(awaited: Awaited) -> JSON:
    """A wait as recorded: `{"kind", "topics", "mode", "details"}`; see `wait_from`."""
    details = asdict(awaited)
    if isinstance(awaited, ApprovalWait):
        details["deciders"] = awaited.deciders.model_dump(mode="json")
    kind = {SignalWait: "signal", ApprovalWait: "approval", ChildWait: "child"}[type(awaited)]
    mode = awaited.mode if isinstance(awaited, SignalWait) else "any"
    return {"kind": kind, "topics": [*topics(awaited)], "mode": mode, "details": details}


def wait_from(value: Any) -> Awaited:
    """The wait that `wait_json` wrote."""
    details = dict(value["details"])
    match value["kind"]:
        case "signal":
            return SignalWait(**details | {"names": tuple(details["names"])})
        case "approval":
            return approval_from(value)
        case _:
            return ChildWait(**details)


def approval_from(value: Any) -> ApprovalWait:
    """The approval that `wait_json` wrote."""
    details = dict(value["details"])
    return ApprovalWait(**details | {"deciders": Deciders.model_validate(details["deciders"])})


def _signalled(awaited: SignalWait, letters: Sequence[Mail]) -> Met | None:
    found: dict[str, Mail] = {}
    for letter in letters:
        if letter.kind == MailKind.SIGNAL and letter.topic in awaited.names:
            found.setdefault(str(letter.topic), letter)
            if awaited.mode == "any":
                break
    if not found or (awaited.mode == "all" and len(found) < len(set(awaited.names))):
        return None
    first = next(iter(found))
    output: JSON = {
        "signal": first,
        "payload": found[first].payload,
        "signals": {name: letter.payload for name, letter in found.items()},
    }
    return Met(output, frozenset({"received"}), tuple(letter.id for letter in found.values()))


def decisions_on(approval_id: str, letters: Sequence[Mail]) -> list[tuple[Mail, Decision]]:
    """The decisions on an approval in the order they were made, one for each person."""
    found: dict[str | None, tuple[Mail, Decision]] = {}
    for letter in letters:
        if letter.kind == MailKind.DECISION and letter.topic == approval_id and isinstance(letter.payload, dict):
            decision: Decision = "approve" if letter.payload.get("decision") == "approve" else "reject"
            found.setdefault(letter.user_id, (letter, decision))
    return [*found.values()]


def _decided(awaited: ApprovalWait, letters: Sequence[Mail]) -> Met | Refused | None:
    decided = decisions_on(awaited.approval_id, letters)
    used = tuple(letter.id for letter, _ in decided)
    match verdict(awaited.quorum, [decision for _, decision in decided]):
        case "approved":
            return _approved(awaited, [letter for letter, decision in decided if decision == "approve"], used)
        case "rejected":
            rejection = next(letter for letter, decision in decided if decision == "reject")
            return _rejected(awaited, rejection, used)
        case _:
            return None


def _approved(awaited: ApprovalWait, letters: Sequence[Mail], used: tuple[str, ...]) -> Met:
    last = _payload(letters[-1]) if letters else {}
    output: JSON = {
        "decision": "approved",
        "approval_id": awaited.approval_id,
        "decided_by": [letter.user_id for letter in letters],
        "comment": last.get("comment"),
        "data": last.get("data"),
    }
    return Met(output, frozenset({"approved"}), used)


def _rejected(awaited: ApprovalWait, letter: Mail | None, used: tuple[str, ...]) -> Met | Refused:
    comment = None if letter is None else _payload(letter).get("comment")
    if awaited.on_rejected == "continue":
        output: JSON = {
            "decision": "rejected",
            "approval_id": awaited.approval_id,
            "decided_by": [] if letter is None else [letter.user_id],
            "comment": comment,
            "data": None if letter is None else _payload(letter).get("data"),
        }
        return Met(output, frozenset({"rejected"}), used)
    who = "The deadline passed and" if letter is None else f"{letter.user_id or 'Somebody'}"
    said = f": {comment}" if comment else ""
    message = f"{who} rejected '{awaited.title}'{said}"
    return Refused(Failure("approval_rejected", message, retryable=False), used)


def _ended(awaited: ChildWait, letters: Sequence[Mail]) -> Met | Refused | None:
    letter = next((one for one in letters if one.kind == MailKind.CHILD and one.topic == awaited.execution_id), None)
    if letter is None:
        return None
    told = _payload(letter)
    usage = Usage(int(told.get("tokens_used") or 0), float(told.get("cost") or 0.0))
    if told.get("status") == "COMPLETED":
        return Met(told.get("output"), letters=(letter.id,), usage=usage)
    error = told.get("error") or "without saying why"
    message = f"Execution {awaited.execution_id} ended as {told.get('status')}: {error}"
    return Refused(Failure("child_failed", message), (letter.id,))


def _payload(letter: Mail) -> Mapping[str, Any]:
    return letter.payload if isinstance(letter.payload, dict) else {}
