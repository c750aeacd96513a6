"""What RE2 may spend on a pattern. It never backtracks, but a few characters can stand for a large automaton.

Counts repeat what they follow, classes of Unicode have hundreds of ranges. An automaton with many states does not fit
RE2's cache, and is then walked through with all of its states at each character.
"""

import re

STATES_PER_CHARACTER = 2_000
"""What a pattern that is not known yet may come to."""

_COUNT = re.compile(r"\{([0-9]{1,4})(,?)([0-9]{0,4})\}")
_SET = re.compile(r"\[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\]\\])*\]", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:[pP](?:\{[^}]*\}|.)|.)", re.DOTALL)
_IGNORES_CASE = re.compile(r"\(\?[a-zA-Z]*i")
_UNICODE_CLASS = re.compile(r"\\[pP]")

_CLASS_STATES = 3_000
_ANY_STATES = 4
_BOTH_CASES = 6
_CACHED_STATES = 100
_TO_BEGIN = 1_500
_TO_COMPILE = 128
_TO_WALK = 6


def states_of(pattern: str) -> int:
    """About how many states the automaton of a pattern has."""
    groups, last, position = [0], 0, 0
    while position < len(pattern):
        character = pattern[position]
        if count := _COUNT.match(pattern, position):
            low, _, high = count.groups()
            repeated = last * max(int(low), int(high or 0))
            groups[-1] += repeated - last
            last, position = repeated, count.end()
            continue
        if character == "(":
            groups.append(1)
        elif character == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        else:
            found = _SET.match(pattern, position) or _ESCAPE.match(pattern, position)
            last = _atom(found[0] if found else character)
            groups[-1] += last
            position = found.end() - 1 if found else position
        position += 1
    return sum(groups) * (_BOTH_CASES if _IGNORES_CASE.search(pattern) else 1)


def match_work(states: int, text: int) -> int:
    """What it may take to make an automaton and to run it over a text of so many characters; in bytes copied."""
    step = 1 + (states // 8 if states <= _CACHED_STATES else _TO_WALK * states)
    return _TO_BEGIN + _TO_COMPILE * states + text * step


def _atom(text: str) -> int:
    if classes := len(_UNICODE_CLASS.findall(text)):
        return classes * _CLASS_STATES
    return _ANY_STATES if text == "." or text.startswith("[") else 1
