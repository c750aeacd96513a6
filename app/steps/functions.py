"""The functions that ship with Stepstream, for `type: function`. Each is registered in `pyproject.toml`."""

from typing import Any

from app.domain.errors import StepError
from app.domain.jsontext import JSON
from app.engine.step_types import StepContext

MAX_FIBONACCI = 35

_WEIGHTS = {"fit": 0.4, "intent": 0.4, "budget": 0.2}


def fibonacci(n: int) -> dict[str, JSON]:
    """The n-th Fibonacci number, `{"n": 10, "value": 55}`, by plain recursion: it is there to cost processor time.

    n is 0 to 35; each further step takes 1.6 times as long.
    """
    if not _is_integer(n) or not 0 <= n <= MAX_FIBONACCI:
        raise _invalid(f"fibonacci: `n` is an integer from 0 to {MAX_FIBONACCI}")
    return {"n": n, "value": _recursive_fibonacci(n)}


def _recursive_fibonacci(n: int) -> int:
    return n if n < 2 else _recursive_fibonacci(n - 1) + _recursive_fibonacci(n - 2)


def echo(**values: Any) -> dict[str, JSON]:
    """Its arguments, unchanged."""
    return values


def score_leads(leads: list[Any], hot_above: float = 0.8) -> dict[str, JSON]:
    """Sales leads, scored by a fixed rule and best first.

    A lead is an object with `fit`, `intent` and `budget`, each 0 to 1 and 0 when missing; everything else in it is
    kept. The result has `leads` (each with its `score` and whether it is `hot`), `count`, `score` (the best one's),
    and `risk`: the share of leads that are not hot, 1 when there are none.
    """
    if not isinstance(leads, list) or not all(isinstance(lead, dict) for lead in leads):
        raise _invalid("score_leads: `leads` is a list of objects")
    if not _is_number(hot_above):
        raise _invalid("score_leads: `hot_above` is a number")
    scored = [{**lead, "score": _score(lead)} for lead in leads]
    ranked: list[JSON] = [
        {**lead, "hot": lead["score"] > hot_above} for lead in sorted(scored, key=lambda lead: -float(lead["score"]))
    ]
    best = max((lead["score"] for lead in scored), default=0.0)
    cold = sum(lead["score"] <= hot_above for lead in scored)
    risk = round(cold / len(scored), 4) if scored else 1.0
    return {"leads": ranked, "count": len(ranked), "score": best, "risk": risk}


def _score(lead: dict[str, Any]) -> float:
    total = 0.0
    for name, weight in _WEIGHTS.items():
        value = lead.get(name, 0)
        if not _is_number(value) or not 0 <= value <= 1:
            raise _invalid(f"score_leads: `{name}` of a lead is a number from 0 to 1")
        total += weight * value
    return round(total, 4)


def flaky(fail_times: int, context: StepContext, value: Any = None) -> dict[str, JSON]:
    """Fails its first `fail_times` attempts, then returns `{"attempt": …, "value": …}`: for trying retries."""
    if not _is_integer(fail_times):
        raise _invalid("flaky: `fail_times` is an integer")
    if context.attempt <= fail_times:
        detail = f"Attempt {context.attempt} failed on purpose; the first {fail_times} do"
        raise StepError(detail, code="failed_on_purpose")
    return {"attempt": context.attempt, "value": value}


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _invalid(message: str) -> StepError:
    return StepError(message, code="invalid_config", retryable=False)
