"""Named places where a process can be made to die or to freeze, so that tests find out what becomes of it at each.

Off unless the setting `crashpoints` names some, and then each is passed at the cost of one look into a dict.
"""

import os
import signal
from typing import Literal, TypeAlias, get_args

EXIT_CODE = 137
"""That of a process that was killed."""

Point: TypeAlias = Literal[
    "after_claim",
    "before_effect",
    "after_effect_before_record",
    "before_commit",
    "after_commit_before_publish",
    "in_accept",
    "in_inbox",
    "after_inbox",
    "in_cancel",
    "in_child_start",
    "in_retry",
    "in_heartbeat",
    "in_rescue",
    "in_drain",
    "in_seal",
    "in_migration",
]
POINTS: frozenset[str] = frozenset(get_args(Point))

_left: dict[str, int] = {}
_freezes: set[str] = set()


def arm(wanted: str) -> None:
    """Die at these points: `before_commit:3,in_drain` means at the third passing, and at the first.

    `before_commit:3:freeze` stops there, like SIGSTOP, until SIGCONT. Raises ValueError for what is no point.
    """
    _left.clear()
    _freezes.clear()
    for part in filter(None, wanted.split(",")):
        name, passing, what, *_ = [*part.strip().split(":"), "", ""]
        if name not in POINTS:
            raise ValueError(f"STEPSTREAM_CRASHPOINTS: there is no point '{name}', only {', '.join(sorted(POINTS))}")
        _left[name] = int(passing or 1)
        if what == "freeze":
            _freezes.add(name)


def crashpoint(name: Point) -> None:
    """A place to die at."""
    if name in _left:
        _left[name] -= 1
        if _left[name] == 0:
            os.write(2, f"crashpoint {name}\n".encode())
            if name not in _freezes:
                os._exit(EXIT_CODE)
            os.kill(os.getpid(), signal.SIGSTOP)
